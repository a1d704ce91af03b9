import asyncio
import logging
import os
import random

import aiohttp


async def subscribe(url, key, handle, since=None):
    """Follow Tocsin's events; a reconnect goes on where it was: none is missed, none comes twice."""
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session:
        while True:
            try:
                query = {} if since is None else {"since": str(since)}
                async with session.ws_connect(f"{url}/ws/events", params=query, heartbeat=30) as ws:
                    async for message in ws:
                        frame = message.json()
                        for event in frame.get("events", ()):
                            handle(event)
                        since = frame.get("to", frame.get("seq") if since is None else since)
            except (aiohttp.ClientError, OSError) as error:  # a 503 of a server that shuts down, too
                logging.warning("cut off: %s", error)
            await asyncio.sleep(random.uniform(0.1, 2))  # not all clients at once


if __name__ == "__main__":
    asyncio.run(subscribe(os.environ["TOCSIN_URL"], os.environ["TOCSIN_KEY"], print))
