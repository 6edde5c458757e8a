"""What a legion's on_lord and on_unlord do where that is watched: a line when it begins, and one when it ends.

    herald.py FILE [SECONDS]

EVENT begin|end MONOTONIC_NS NODE TOKEN

SECONDS: how long it takes. Each line is one write to a file opened with O_APPEND, so lines of several nodes never mix.
"""

import time

BEGAN = time.monotonic_ns()

import os  # noqa: E402
import sys  # noqa: E402


def main(path, seconds="0"):
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def say(part, at):
        names = ["LEGION_EVENT", "LEGION_NODE", "LEGION_TOKEN"]
        event, node, token = (os.environ.get(name) or "-" for name in names)
        os.write(out, f"{event} {part} {at} {node} {token}\n".encode())

    say("begin", BEGAN)
    time.sleep(float(seconds))
    say("end", time.monotonic_ns())


if __name__ == "__main__":
    main(*sys.argv[1:])
