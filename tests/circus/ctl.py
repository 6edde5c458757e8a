"""Circus's own circusctl, again and again.

    ctl.py ENDPOINT

A line in holds the words of a command line. A line out is what came of it: exit code, output, errors.
"""
import contextlib
import io
import json
import shlex
import sys
import time

from circus.circusctl import main


def run(words):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["circusctl", "--endpoint", sys.argv_endpoint] + words
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


sys.argv_endpoint = sys.argv[1]
for line in sys.stdin:
    said = run(shlex.split(line))
    # circusd refuses what comes while it looks after its processes.
    while "arbiter is already running" in said["out"] + said["err"]:
        time.sleep(0.02)
        said = run(shlex.split(line))
    print(json.dumps(said), flush=True)
