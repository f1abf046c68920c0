"""Lists entries with the platform's Python client, page by page: entries.py URL TOKEN [RESULT…]

Writes each response with entries as one JSON line, ["page", BODY]. Exits with an error after a response that is not a list.
"""

import json
import sys

from neuroio import Client, constants


def main() -> None:
    # The client reads this constant at its first request.
    constants.API_BASE_URL, token, *results = sys.argv[1:]
    entries = Client(api_token=token).entries
    filters = {"result": results} if results else {}
    offset = 0
    while True:
        answer = entries.list(limit=100, offset=offset, **filters)
        answer.raise_for_status()
        found = len(answer.json()["results"])
        if not found:
            return
        print(json.dumps(["page", answer.text]), flush=True)
        offset += found


main()
