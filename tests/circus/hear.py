"""Listens to a PUB socket as Circus's plugins do, and says what comes: a line each, the topic and the fields of the body in
their order, and whether its bytes are those of Python's json.dumps.

    hear.py ENDPOINT
"""
import json
import sys

import zmq

socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.SUBSCRIBE, b"watcher.")
socket.connect(sys.argv[1])
while True:
    topic, body = (frame.decode() for frame in socket.recv_multipart())
    value = json.loads(body)
    told = {"topic": topic, "fields": list(value.items()), "is_python": json.dumps(value) == body}
    print(json.dumps(told), flush=True)
