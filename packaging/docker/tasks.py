"""The application of docker-compose.yml: a tick every five seconds, whoever beats."""

import os

from celery import Celery

app = Celery("tasks", broker=os.environ.get("CELERY_BROKER_URL", "redis://redis:6379/1"))
app.conf.beat_schedule = {
    "tick": {
        "task": "tasks.tick",
        "schedule": 5.0,
        "args": (os.environ.get("CIRCUS_NODE", "?"), os.environ.get("CIRCUS_FENCING_TOKEN", "?")),
    }
}


@app.task
def tick(node, token):
    return f"tick sent by {node} under token {token}"
