"""Publishes the feed to core NATS with the platform's Python client, as its documentation shows.

python_client.py URL SERVER: does the same as the bare loop, until it is killed.
"""

import asyncio
import json
import sys

import nats
import uvloop
from neuroio import constants
from neuroio.listeners import EventListener


async def main(url, server):
    constants.EVENTS_BASE_URL = url
    client = await nats.connect(server)

    async def publish(message):
        frame = json.loads(message)
        data = frame.get("data")
        if data is None:
            return
        subject = f"neuroio.entries.{data['space']['id']}.{data['source']['id']}.{data['result']}"
        await client.publish(subject, message.encode())

    await EventListener("bench", publish).listen()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(*sys.argv[1:]))
