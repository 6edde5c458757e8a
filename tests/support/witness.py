"""A singleton's child that bears witness: one line for each thing that happens to it.

    witness.py FILE [grace=SECONDS] [stubborn] [kid] [cannot=PATH] [unlocked]

KIND MONOTONIC_NS PID NODE TOKEN PARENT

START when it began, TICK every 10 ms, TERM when it was asked to stop, EXIT at its end. Each line is one write to a
file opened with O_APPEND, so lines of several processes never mix. It also keeps a lock that all its descendants
inherit: who starts while anything of another is left says TWICE.

grace: how long it takes to end after it was asked; stubborn: it never does; kid: it leaves a grandchild that called
setsid, deaf to signals, whose lines are KID; cannot: it ends at once where there is a file PATH-NODE; unlocked: it keeps
no lock, for where something of another is left but frozen.

Other programs may import it: begin(FILE), and then tick() over and over.
"""

import time

BEGAN = time.monotonic_ns()

import fcntl  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

NODE = os.environ.get("CIRCUS_NODE", "-")
TOKEN = os.environ.get("CIRCUS_FENCING_TOKEN", "0")
out = lock = None


def begin(path, locked=True):
    global out, lock
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if locked:
        keep_lock(path)
    say("START", began())


def keep_lock(path):
    global lock
    lock = os.open(path + ".lock", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("TWICE")


def say(kind, at=None, parent=0):
    at = at or time.monotonic_ns()
    os.write(out, f"{kind} {at} {os.getpid()} {NODE} {TOKEN} {parent}\n".encode())


def tick():
    say("TICK")
    time.sleep(0.01)


def began():
    """When the kernel made this process, as late as that may have been: it tells hundredths of a second only."""
    with open("/proc/self/stat", "rb") as stat:
        ticks = int(stat.read().rpartition(b")")[2].split()[19])
    asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    hundredth = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return min(BEGAN, (ticks + 1) * hundredth - asleep)


def leave_kid():
    parent = os.getpid()
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for deaf in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(deaf, signal.SIG_IGN)
    while True:
        say("KID", parent=parent)
        time.sleep(0.01)


def main(path, *words):
    options = dict((word + "=").split("=")[:2] for word in words)
    asked = None

    def term(*_):
        nonlocal asked
        asked = asked or time.monotonic()
        say("TERM")

    # Deaf until there is a file to write to: who sees a first line may ask it to stop.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGTERM, term)
    begin(path, "unlocked" not in options)
    if "cannot" in options and os.path.exists(options["cannot"] + "-" + NODE):
        say("EXIT")
        sys.exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    if "kid" in options:
        leave_kid()
    while asked is None or "stubborn" in options or time.monotonic() < asked + float(options.get("grace") or 0):
        tick()
    say("EXIT")


if __name__ == "__main__":
    main(*sys.argv[1:])
