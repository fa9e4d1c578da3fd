"""What clients see while an operator drains, weighs, changes keys or restarts the router: requests and streams."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from asking import Client, Load, prompt, ready
from running import CHAT, KEY, KEYS, WEIGHTS, Router, free_ports, plan_of, stopped_after, until

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "router"))

from fakes import FakeEngine

from llmfleet.launch.router.clients import ClientKey
from llmfleet.launch.router.state import clusters_url, parse_clusters, parse_server, server_url

CLIENTS, STREAMS = 6, 12
NEW_KEY = ClientKey("new", "sk-added-just-now")


def rows(folder: Path) -> Iterator[tuple[str, str]]:
    yield "drain of one of three", changed(folder, drained)
    yield "weight of one of three to a tenth", changed(folder, weighed)
    yield "a key more", changed(folder, key_added)
    yield "restart of the router's process", changed(folder, restarted)


def changed(folder: Path, change: Callable[[Router], float]) -> str:
    """The change in the middle of requests and of streams that wait for more; how long until it was in force."""
    with ExitStack() as stack:
        engines = {name: FakeEngine(name) for name in WEIGHTS}
        for each in engines.values():
            stack.callback(each.stop)
        port, admin = free_ports(2)
        place = folder / f"router-{port}"
        made = Router(place, plan_of([e.port for e in engines.values()], port, admin), hot=True)
        stack.enter_context(stopped_after(made.process))
        ready(made.process, 3)
        for each in engines.values():
            each.hold.clear()
        streams = [Stream(port, n) for n in range(STREAMS)]
        until(lambda: sum(e.received for e in engines.values()) >= STREAMS, "streams")
        until(lambda: all(s.begun.is_set() for s in streams), "first events")
        for each in engines.values():
            each.hold.set()
        with Load(port, CLIENTS) as load:
            time.sleep(1)
            took = change(made)
            time.sleep(1)
        cut = sum(not stream.whole() for stream in streams)
        failed = f"{load.failed} of {len(load.log)} requests failed, {cut} of {STREAMS} streams cut"
        return f"in force after {1000 * took:.0f} ms; {failed}"


class Stream:
    """A stream of four seconds, most of them after whatever happens in between."""

    def __init__(self, port: int, n: int) -> None:
        messages = [{"role": "user", "content": f"stream {n}"}]
        body = {"model": "chat", "messages": messages, "stream": True, "chunks": 40, "pause": 0.1}
        self.port, self.body = port, json.dumps(body)
        self.begun, self.text = threading.Event(), b""
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        connection.request("POST", CHAT, self.body, headers)
        answer = connection.getresponse()
        self.text = answer.read1()
        self.begun.set()
        try:
            self.text += answer.read()
        except (OSError, http.client.HTTPException):
            self.text += b" CUT"

    def whole(self) -> bool:
        self.thread.join()
        return self.text.endswith(b"data: [DONE]\n\n")


def until_in_force(in_force: Callable[[], bool], begun: float) -> float:
    while not in_force():
        time.sleep(0.002)
    return time.monotonic() - begun


def drained(router: Router) -> float:
    begun = time.monotonic()
    router.put(router.plan, draining=frozenset({"a"}))
    return until_in_force(lambda: state(router, "a")[1], begun)


def weighed(router: Router) -> float:
    plan = router.plan
    instances = tuple(replace(i, weight=10) if i.id == "a" else i for i in plan.instances)
    begun = time.monotonic()
    router.put(replace(plan, instances=instances))
    return until_in_force(lambda: state(router, "a")[0] == 10, begun)


def state(router: Router, instance: str) -> tuple[int, bool]:
    """Weight, and whether it drains."""
    page = fetched(clusters_url(router.plan.router.admin_port))
    return next((t.weight, t.draining) for t in parse_clusters(page) if t.instance == instance)


def key_added(router: Router) -> float:
    begun = time.monotonic()
    router.put(router.plan, keys=(*KEYS, NEW_KEY))
    return until_in_force(lambda: may_ask(router.process.port, NEW_KEY.key), begun)


def may_ask(port: int, key: str) -> bool:
    try:
        return Client(port, key).ask(prompt("may I?"))[0] == 200
    except OSError:  # a refusal does not wait for the whole request
        return False


def restarted(router: Router) -> float:
    begun = time.monotonic()
    router.process.process.send_signal(signal.SIGHUP)
    return until_in_force(lambda: epoch(router) == 1, begun)


def epoch(router: Router) -> int | None:
    try:
        life = parse_server(fetched(server_url(router.plan.router.admin_port)))
    except OSError:
        return None
    return None if life is None else life.epoch


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - ours
        return str(answer.read().decode())
