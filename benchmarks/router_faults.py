"""What clients see when instances die, vanish, hang or are full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from asking import Asked, Load, listens, ready
from running import LOW_KEY, WEIGHTS, Router, Running, engine, free_ports, plan_of, stopped_after, until

CLIENTS, MANY, PAUSE_S = 16, 64, 0.1  # so many with pauses, that not all of them wait for the one that is gone
SETTLED_S, GONE_S = 1.5, 6.0
HUNG_KILLED_S = 5.0  # when a supervisor kills what stopped answering; ours by default after 30 s of a GPU's engine
PLACES, DELAY_S = {"a": 8, "b": 4, "c": 2}, 0.1
SPACE, LINK, OURS, THEIRS = "llmfleet-bench", "llmfleet-b", "10.213.7.1", "10.213.7.2"


def rows(folder: Path) -> Iterator[tuple[str, str]]:
    yield "kill -9 of one of three", killed(folder)
    yield "node of one of three vanishes (its network goes)", vanished(folder)
    yield f"engine of one of three hangs (SIGSTOP), killed after {HUNG_KILLED_S:.0f} s", hung(folder)
    yield "twice as many clients as places, a quarter of ordinary priority", overloaded(folder)


def engines(stack: ExitStack, folder: Path, delay: str = "0.02s") -> dict[str, Running]:
    found = {
        name: stack.enter_context(stopped_after(engine(folder, port, delay)))
        for name, port in zip(WEIGHTS, free_ports(len(WEIGHTS)), strict=True)
    }
    for each in found.values():
        until(lambda port=each.port: listens(port), "engines")  # type: ignore[misc]
    return found


def router(stack: ExitStack, folder: Path, ports: list[int], hosts: Mapping[str, str] | None = None) -> Router:
    port, admin = free_ports(2)
    made = Router(folder / f"router-{port}", plan_of(ports, port, admin), hosts=hosts)
    stack.enter_context(stopped_after(made.process))
    ready(made.process, 3)
    return made


def killed(folder: Path) -> str:
    with ExitStack() as stack:
        running = engines(stack, folder)
        made = router(stack, folder, [e.port for e in running.values()])
        with Load(made.process.port, CLIENTS) as load:
            time.sleep(SETTLED_S)
            running["a"].stop(signal.SIGKILL)
            time.sleep(3)
            running["a"].start()
            until(lambda: listens(running["a"].port), "the engine again")
            healthy = time.monotonic()
            until(lambda: any(x.begun > healthy and x.instance == "a" for x in load.log[-200:]), "it is back in use")
        back = min(x.ended for x in load.log if x.begun > healthy and x.instance == "a") - healthy
        return f"{told(load)}, back in use {back:.1f} s after it listens"


def vanished(folder: Path) -> str:
    """Not a word from one moment to the next: the engine's network namespace loses its link."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "not tried: it needs root and the ip command"
    with ExitStack() as stack:
        stack.enter_context(namespace())
        ports = free_ports(3)
        inside = ("ip", "netns", "exec", SPACE)
        stack.enter_context(stopped_after(engine(folder, ports[0], "0.02s", host=THEIRS, inside=inside)))
        for port in ports[1:]:
            stack.enter_context(stopped_after(engine(folder, port, "0.02s")))
        until(lambda: listens(ports[0], THEIRS), "the engine in its namespace")
        made = router(stack, folder, ports, {"a": THEIRS})
        with Load(made.process.port, MANY, pause_s=PAUSE_S) as load:
            time.sleep(SETTLED_S)
            gone = time.monotonic()
            ip("-n", SPACE, "link", "set", "eth0", "down")
            time.sleep(GONE_S)
            ip("-n", SPACE, "link", "set", "eth0", "up")
            time.sleep(2)
        return f"{told(load)}, new requests elsewhere after {away(load.log, gone):.1f} s"


@contextmanager
def namespace() -> Iterator[None]:
    subprocess.run(("ip", "netns", "delete", SPACE), stderr=subprocess.DEVNULL, check=False)
    ip("netns", "add", SPACE)
    try:
        ip("link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", SPACE)
        ip("address", "add", f"{OURS}/30", "dev", LINK)
        ip("link", "set", LINK, "up")
        ip("-n", SPACE, "address", "add", f"{THEIRS}/30", "dev", "eth0")
        ip("-n", SPACE, "link", "set", "eth0", "up")
        yield
    finally:
        ip("netns", "delete", SPACE)


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


def hung(folder: Path) -> str:
    with ExitStack() as stack:
        running = engines(stack, folder)
        made = router(stack, folder, [e.port for e in running.values()])
        with Load(made.process.port, MANY, pause_s=PAUSE_S) as load:
            time.sleep(SETTLED_S)
            gone = time.monotonic()
            running["a"].process.send_signal(signal.SIGSTOP)
            time.sleep(HUNG_KILLED_S)
            running["a"].stop(signal.SIGKILL)
            time.sleep(1)
            running["a"].start()
            time.sleep(2)
        return f"{told(load)}, new requests elsewhere after {away(load.log, gone):.1f} s"


def away(log: list[Asked], since: float) -> float:
    """Until the last request began that waited for the instance: it took longer than any other could."""
    stuck = [x.begun for x in log if x.begun > since and x.ended - x.begun > 0.5]
    return max(stuck, default=since) - since


def overloaded(folder: Path) -> str:
    """Places are the router's caps. Low priority has its own key."""
    with ExitStack() as stack:
        running = engines(stack, folder, f"{DELAY_S}s")
        port, admin = free_ports(2)
        plan = plan_of([e.port for e in running.values()], port, admin, capped=True, places=PLACES)
        made = Router(folder / f"router-{port}", plan)
        stack.enter_context(stopped_after(made.process))
        ready(made.process, 3)
        places = sum(PLACES.values())
        low = Load(port, 2 * places - places // 2, LOW_KEY, pause_s=0.01)
        with Load(port, places // 2) as high, low:
            time.sleep(5)
        times = sorted(x.ended - x.begun for x in high.log)
        states = Counter(x.status for x in low.log)
        waits = all("retry-after" in x.headers for x in low.log if x.status == 429)
        lost = sum(x.status == 0 for x in (*high.log, *low.log))
        p95 = 1000 * times[int(0.95 * len(times))]
        return (
            f"{lost} connection errors; ordinary: {high.failed} of {len(times)} failed, p95 {p95:.0f} ms of "
            f"{1000 * DELAY_S:.0f} ms work; low: {states[200]} answered, {states[429]} refused with 429"
            f"{' and Retry-After' if waits else ' WITHOUT Retry-After'}"
        )


def told(load: Load) -> str:
    return f"{load.failed} of {len(load.log)} failed, worst {load.worst_s:.2f} s"
