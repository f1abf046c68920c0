"""Listens with the platform's Python client until it is killed: events.py URL TOKEN

Writes each message that the client passes to its handler as one JSON line, ["message", TEXT].
"""

import asyncio
import json
import sys

from neuroio import EventListener, constants


async def write(message: str) -> None:
    print(json.dumps(["message", message]), flush=True)


def main() -> None:
    constants.EVENTS_BASE_URL, token = sys.argv[1:]
    asyncio.run(EventListener(token, write).listen())


main()
