"""A server of few words, for the stories about sockets.

It listens on the descriptors that are its arguments, or on those that LISTEN_FDS gives it, and says `up` and `down` in
the journal. `ack-by-path` and `ack-by-fd` have it say worker:ack when the gate `ack` is open. It answers each line with
who it is, or, to `backlog`, how many may wait. Told to stop, it takes nobody any more, and goes when those that it has
taken are answered.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
import time

HOME, *WORDS = sys.argv[1:]
NAME = "{CIRCUS_WATCHER}#{CIRCUS_WID}".format_map(os.environ)


def say(what):
    with open(f"{HOME}/journal", "a") as journal:
        journal.write(f"{what} {NAME}\n")


def listeners():
    numbers = [int(word) for word in WORDS if word.isdigit()]
    if not numbers:
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            say("not meant for")
            sys.exit(9)
        numbers = range(3, 3 + int(os.environ["LISTEN_FDS"]))
    return [socket.socket(fileno=number) for number in numbers]


def acknowledge(way):
    while not os.path.exists(f"{HOME}/gate.ack"):
        time.sleep(0.01)
    if way == "ack-by-fd":
        line = socket.socket(fileno=int(os.environ["EINHORN_SOCK_FD"]))
    else:
        line = socket.socket(socket.AF_UNIX)
        line.connect(os.environ["EINHORN_SOCK_PATH"])
    say("acks")
    line.sendall(json.dumps({"command": "worker:ack", "pid": os.getpid()}).encode() + b"\n")


def answer(question, listener):
    if question != b"backlog\n":
        return f"{NAME} {os.getpid()}\n"
    # Of a listener tcpi_sacked is how many may wait.
    return "%d\n" % struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)


def serve(doors, bell, told):
    answered = {}
    while not told or not all(answered.values()):
        for one in select.select([bell, *([] if told else doors), *answered], [], [])[0]:
            if one == bell:
                os.read(bell, 512)
            elif one in doors:
                try:
                    client, _ = one.accept()
                    client.setblocking(True)
                    answered[client] = False
                except BlockingIOError:
                    pass  # Another process was faster.
            else:
                question = one.recv(512)
                if question:
                    one.sendall(answer(question, doors[0]).encode())
                    answered[one] = True
                else:
                    one.close()
                    del answered[one]


if __name__ == "__main__":
    told = []
    bell, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring)
    signal.signal(signal.SIGTERM, lambda *_: told.append("stop"))
    doors = listeners()
    say("up")
    for way in WORDS:
        if way.startswith("ack-by-"):
            acknowledge(way)
    serve(doors, bell, told)
    say("down")
