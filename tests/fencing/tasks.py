"""A Celery project whose tasks are fenced by the recipe, each noting what became of it.

A line in $NOTES: KIND AT SENT TASK TOKEN RETRIES PID. KIND is sent, or the worker's pool; AT is when that was, SENT when
the message was made, both on CLOCK_MONOTONIC in nanoseconds; TOKEN is 0 without one.

    tasks.py TASK LEASE TOKEN       sends one as a beat under this lease would; with - for both, as anybody else
"""

import os
import sys
import time

if __name__ == "__main__":
    task, lease, token = sys.argv[1:]
    if lease != "-":
        os.environ.update(CIRCUS_LEASE_KEY=lease, CIRCUS_FENCING_TOKEN=token)

from app import app
from celery.signals import after_task_publish, before_task_publish

import fencing

app.conf.update(
    beat_schedule={"tick": {"task": "tick", "schedule": 0.1}},
    beat_max_loop_interval=0.1,
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
)


def note(kind, sent, task, fence, retries):
    out = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    token = fence[1] if fence else 0
    os.write(out, f"{kind} {time.monotonic_ns()} {sent} {task} {token} {retries} {os.getpid()}\n".encode())
    os.close(out)


@before_task_publish.connect
def begin(headers, **_):
    headers["sent"] = time.monotonic_ns()


@after_task_publish.connect
def sent(sender, headers, **_):
    note("sent", headers["sent"], sender, headers.get("fence"), headers["retries"])


def done(task):
    request = task.request
    note(os.environ["POOL"], request.get("sent"), task.name, request.get("fence"), request.retries)


@app.task(name="tick", bind=True)
def tick(self):
    done(self)


@app.task(name="again", bind=True)
def again(self):
    """Is let in, sees a larger token meanwhile, and is tried again."""
    done(self)
    if not self.request.retries:
        lease, token = self.request.get("fence")
        fencing.is_stale(app.conf.broker_url, lease, token + 1)
        raise self.retry(countdown=0)


if __name__ == "__main__":
    app.tasks[task].delay()
