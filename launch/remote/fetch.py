#!/usr/bin/env python3
"""GETs what only this machine can reach. Stand-alone: Python 3.6 and its library.

fetch.py URL...     JSON list of {"url", "status", "body"}, in the order given; status 0: no answer, body says why
"""

import json
import ssl
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

Result = Dict[str, Any]

TIMEOUT_S = 5
LARGEST = 32 << 20
CONTEXT = ssl.create_default_context()  # the router's certificate may be for a name that only its clients use
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE
DIRECT = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),  # a proxy would not reach loopback either
    urllib.request.HTTPSHandler(context=CONTEXT),
)


def fetch(url: str) -> Result:
    try:
        with DIRECT.open(url, timeout=TIMEOUT_S) as answer:
            return result(url, answer.status, answer.read(LARGEST))
    except urllib.error.HTTPError as error:
        return result(url, error.code, error.read(LARGEST))
    except Exception as error:  # whatever it is, the other URLs still get their turn
        return result(url, 0, str(error).encode())


def result(url: str, status: int, body: bytes) -> Result:
    return {"url": url, "status": status, "body": body.decode("utf-8", "replace")}


def main(urls: List[str]) -> None:
    with ThreadPoolExecutor(max_workers=16) as pool:
        json.dump(list(pool.map(fetch, urls)), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
