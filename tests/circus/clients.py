"""Circus's two clients, as scripts use them: what each says to some calls, a line each.

    clients.py ENDPOINT
"""
import asyncio
import json
import sys

from circus.client import AsyncCircusClient, CircusClient
from circus.exc import CallError

endpoint = sys.argv[1]


def say(reply):
    print(json.dumps(reply), flush=True)


client = CircusClient(endpoint=endpoint, timeout=20)
say(client.send_message("list"))
say(client.send_message("incr", name="web", nb=1, waiting=True))
say(client.call({"command": "options", "properties": {"name": "web"}}))
say(client.send_message("status", name="nope"))
client.stop()


async def ask():
    client = AsyncCircusClient(endpoint=endpoint)
    say(await client.send_message("numprocesses", name="web"))
    say(await client.call({"command": "decr", "properties": {"name": "web", "nb": 1, "waiting": True}}))
    client.stop()


asyncio.run(ask())

try:
    say(CircusClient(endpoint=endpoint + ".nobody", timeout=0.1).send_message("list"))
except CallError as error:
    say(str(error))
