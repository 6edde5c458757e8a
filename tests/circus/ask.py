"""Puts messages to a ROUTER as Circus's own clients do: one frame, from a DEALER. Each gets a connection of its own, so that
what one does to a connection is no other's business.

    ask.py ENDPOINT

A line in is a message. A line out is what came of it: the fields of the reply as [path, value] in their order, or null
where there is none, and whether its bytes are those of Python's json.dumps. In a message, "<pid of NAME>" becomes the number
of a watcher's first process.
"""
import json
import re
import sys
import time
import uuid

import zmq

# Longer than anything here takes on a machine that is busy.
PATIENCE_MS = 20000
context = zmq.Context()


class Client:
    def __init__(self, endpoint):
        self.socket = context.socket(zmq.DEALER)
        self.socket.identity = uuid.uuid4().hex.encode()
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, text):
        self.socket.send(text.encode())

    def next(self, patience_ms=PATIENCE_MS):
        if not self.socket.poll(patience_ms):
            return None
        frames = self.socket.recv_multipart()
        assert len(frames) == 1, frames
        return frames[0].decode()

    def close(self):
        self.socket.close()


def call(endpoint, command, **properties):
    client = Client(endpoint)
    client.send(json.dumps({"command": command, "properties": properties}))
    reply = json.loads(client.next())
    client.close()
    return reply


def put(endpoint, text):
    """The text of the reply; None where there is none."""
    client = Client(endpoint)
    client.send(text)
    reply = client.next(200)
    if reply is None and '"waiting": true' in text:
        reply = client.next()
    elif reply is None:
        # Replies come in order: what is asked next is answered next where there is none. circusd sometimes hears nothing more
        # until somebody else comes.
        client.send(json.dumps({"command": "numwatchers", "id": "next"}))
        call(endpoint, "numwatchers")
        reply = client.next()
        assert reply is not None, "nothing more is answered after %s" % text
        if json.loads(reply)["id"] == "next":
            reply = None
    client.close()
    return reply


def fields(value, path=""):
    """All that is in a value, each with where it stands; numbers of processes are no names."""
    if isinstance(value, dict) and value:
        for key, within in value.items():
            key = "PID" if key.isdigit() else key
            yield from fields(within, path + "." + key if path else key)
    elif isinstance(value, list) and value:
        for within in value:
            yield from fields(within, path + "[]")
    else:
        yield path, value


def main(endpoint):
    for line in sys.stdin:
        text = re.sub(r'"<pid of ([^>]*)>"', lambda name: str(call(endpoint, "list", name=name[1])["pids"][0]), line[:-1])
        deadline = time.monotonic() + PATIENCE_MS / 1000
        reply = put(endpoint, text)
        # circusd refuses what comes while it looks after its processes.
        while reply and "arbiter is already running" in reply and time.monotonic() < deadline:
            time.sleep(0.02)
            reply = put(endpoint, text)
        value = reply and json.loads(reply)
        told = {"fields": reply and list(fields(value)), "is_python": not reply or json.dumps(value) == reply}
        print(json.dumps(told), flush=True)


main(sys.argv[1])
