"""An ASGI application that says which process answers: at once, or at /slow?ms=N after so many milliseconds."""

import asyncio
import os
from urllib.parse import parse_qs


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(int(parse_qs(scope["query_string"].decode())["ms"][0]) / 1000)
    body = b"%d\n" % os.getpid()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive, send):
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
