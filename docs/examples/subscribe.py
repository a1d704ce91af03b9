import asyncio
import logging
import os
import random

import aiohttp


async def subscribe(url, key, handle, since=None):
    """Follow Tocsin's events; a reconnect goes on where it was: none is missed, none comes twice."""
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as http:
        while True:
            try:
                query = {} if since is None else {"since": str(since)}
                async with http.ws_connect(f"{url}/ws/events", params=query, timeout=aiohttp.ClientWSTimeout(60)) as ws:
                    async for message in ws:
                        frame = message.json()
                        for event in frame.get("events", ()):
                            handle(event)
                        since = frame.get("to", frame.get("seq") if since is None else since)
            except (aiohttp.ClientError, OSError) as error:
                logging.warning("cut off: %s", error)
                if getattr(error, "status", 503) in (401, 403, 404, 422):
                    raise  # to ask again would not help
            await asyncio.sleep(random.uniform(0.1, 2))  # not all clients at once


if __name__ == "__main__":
    asyncio.run(subscribe(os.environ["TOCSIN_URL"], os.environ["TOCSIN_KEY"], print))
