"""A Celery project with one task, every second, by which a test sees who sends what and when.

beat signs each message with what its supervisor gave it. What was sent is a line in $SENT, what was executed one in
$EXECUTED: the moment of sending on CLOCK_MONOTONIC in nanoseconds, fencing token, node, pid of beat.
"""

import os
import time

from celery import Celery
from celery.signals import after_task_publish, before_task_publish

app = Celery("proj", broker=os.environ["BROKER"])
app.conf.update(
    beat_schedule={"tick": {"task": "tick", "schedule": 1.0}},
    beat_max_loop_interval=1,
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    timezone="UTC",
)


def note(path, beat):
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(out, "{sent} {token} {node} {pid}\n".format(**beat).encode())
    finally:
        os.close(out)


@before_task_publish.connect
def sign(headers, **_):
    headers["beat"] = {
        "sent": time.monotonic_ns(),
        "token": os.environ["CIRCUS_FENCING_TOKEN"],
        "node": os.environ["CIRCUS_NODE"],
        "pid": os.getpid(),
    }


@after_task_publish.connect
def published(headers, **_):
    note(os.environ["SENT"], headers["beat"])


@app.task(name="tick", bind=True)
def tick(self):
    headers = self.request.headers or {}
    note(os.environ["EXECUTED"], headers.get("beat") or self.request.beat)
