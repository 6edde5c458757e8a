"""A server on all the sockets that it is handed: it tells each who comes the name of its watcher.

    greeter.py [once]

It finds its sockets by LISTEN_FDS, and takes wrong words there for a reason to end; one may be its stdin, too. A connection is answered at once,
and closed when the client closes it; a datagram is answered with one.

once: it ends, with 0, when a while nobody has come and nobody is connected.
"""

import os
import select
import socket
import stat
import sys
import threading
import time

NAME = os.environ["CIRCUS_WATCHER"].encode()
FIRST_FD = 3
PATIENCE = 0.1

changed = threading.Lock()
connected = 0
last = time.monotonic()


def sockets():
    if int(os.environ["LISTEN_PID"]) != os.getpid():
        raise SystemExit("these are another's sockets")
    names = os.environ["LISTEN_FDNAMES"].split(":")
    count = int(os.environ["LISTEN_FDS"])
    if len(names) != count:
        raise SystemExit(f"{count} sockets are called {names}")
    fds = list(range(FIRST_FD, FIRST_FD + count))
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        fds.append(0)
    return [socket.socket(fileno=fd) for fd in fds]


def came(difference):
    global connected, last
    with changed:
        connected += difference
        last = time.monotonic()


def greet(connection):
    try:
        with connection:
            connection.sendall(NAME)
            # The client's question, and its end.
            while connection.recv(100):
                pass
    except OSError:
        # It has gone already.
        pass
    came(-1)


def serve(own, gate):
    """One socket. Others share it, and may be quicker, be it one whose accept waits or not."""
    listens = own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    while True:
        select.select([own], [], [])
        try:
            with gate:
                if listens:
                    connection, _ = own.accept()
                    came(1)
                else:
                    _, client = own.recvfrom(100)
                    came(0)
                    own.sendto(NAME, client)
                    continue
        except OSError:
            continue
        # Of a listener that does not wait, it would not either.
        connection.setblocking(True)
        threading.Thread(target=greet, args=(connection,), daemon=True).start()


def main(*words):
    once = "once" in words
    gate = threading.Lock()
    for own in sockets():
        threading.Thread(target=serve, args=(own, gate if once else threading.Lock()), daemon=True).start()
    while once:
        time.sleep(PATIENCE / 4)
        # Nobody is accepted between the decision and the end.
        with gate, changed:
            if not connected and time.monotonic() > last + PATIENCE:
                os._exit(0)
    while True:
        time.sleep(1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
