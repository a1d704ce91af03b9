"""The limit for POST: bare aiohttp and uvloop that decode the same body into the same type and answer as many bytes.

python -m tests.bench.bare
"""

from __future__ import annotations

import asyncio

import msgspec
import uvloop
from aiohttp import web

from server.model import NewNotification
from server.queue import Accepted

TEXT = "Notification météo acceptée et mise en file d'attente"
ANSWER = Accepted(True, TEXT, "meteo", "019a7d1c-7a57-7c3e-9f43-4c7f3b1f2a10", "pending")
_decode = msgspec.json.Decoder(NewNotification).decode
_encode = msgspec.json.Encoder().encode


async def send(request: web.Request) -> web.Response:
    _decode(await request.read())
    return web.Response(body=_encode(ANSWER), status=202, content_type="application/json")


async def main() -> None:
    app = web.Application()
    app.router.add_post("/api/notifications/{type}", send)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(f"bare: http://127.0.0.1:{runner.addresses[0][1]}/", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
