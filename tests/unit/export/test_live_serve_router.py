"""The router before Ray Serve: a real Envoy on the exported files, before a double of Serve that says what it got."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.unit.export.test_live_router import free_port
from tests.unit.planning.fleets import REFERENCE, inventory, planned

from llmfleet.launch.export import serve_front
from llmfleet.launch.export.kinds import kinds_of
from llmfleet.launch.router.process import envoy_command
from llmfleet.launch.router.routes import INSTANCE
from llmfleet.planner.plan import RouterPlan

pytestmark = pytest.mark.live

CHAT = "/v1/chat/completions"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}


class Serve(BaseHTTPRequestHandler):
    together = threading.Barrier(4)

    def do_GET(self) -> None:
        self.answer({"path": self.path})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body.get("stream"):
            self.break_off()
            return
        self.answer({"path": self.path, "body": body, "session": self.headers.get(serve_front.SESSION)})

    def answer(self, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def break_off(self) -> None:
        """As the ingress does with its streams from a replica that dies."""
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"3\r\nyes\r\n")
        self.together.wait(10)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(address: str, port: int, handler: type[Serve] = Serve) -> Iterator[int]:
    server = ThreadingHTTPServer((address, port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serve_port() -> Iterator[int]:
    with serving("127.0.0.1", 0) as port:
        yield port


@dataclass(frozen=True)
class Router:
    url: str
    kinds: tuple[str, ...]

    def ask(self, path: str, body: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=10, trust_env=False)


@pytest.fixture
def router(serve_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    with routing(["127.0.0.1"], serve_port, tmp_path, monkeypatch) as made:
        yield made


@contextmanager
def routing(
    proxies: Sequence[str], serve_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Router]:
    monkeypatch.setattr(serve_front, "HTTP_PORT", serve_port)
    monkeypatch.setattr(serve_front, "LOOPBACK", "127.0.18.1")  # its listeners' ports are its own there
    port, admin = free_port(), free_port()
    plan = replace(planned(REFERENCE), router=RouterPlan("head", "127.0.0.1", port, admin))
    kinds = kinds_of(inventory(REFERENCE), plan)
    folder = tmp_path / "router"
    files = serve_front.serve_router_files(plan, kinds, proxies, str(folder), rag=True)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    argv = (*envoy_command(str(folder), str(Path(sys.executable).with_name("envoy")), concurrency=1),)
    with subprocess.Popen([*argv, "--disable-hot-restart"], cwd=tmp_path, stderr=subprocess.DEVNULL) as envoy:
        try:
            wait_ready(f"http://127.0.0.1:{admin}/ready", envoy)
            yield Router(f"http://127.0.0.1:{port}", tuple(kind.name for kind in kinds))
        finally:
            envoy.kill()


def wait_ready(url: str, envoy: subprocess.Popen[bytes]) -> None:
    transport = httpx.HTTPTransport(retries=20)  # half a minute, each a little later than the one before
    with httpx.Client(transport=transport, timeout=10) as client:
        while client.get(url).status_code != 200:
            assert envoy.poll() is None


def chat(router: Router) -> httpx.Response:
    said = router.ask(CHAT, HELLO)
    end = time.monotonic() + 30  # the hops listen a moment after they are looked at for the first time
    while said.status_code == 503 and time.monotonic() < end:
        time.sleep(0.1)
        said = router.ask(CHAT, HELLO)
    assert said.status_code == 200, said.text
    return said


def test_a_chat_goes_to_its_kind_with_the_prompts_key_as_session(router: Router) -> None:
    said = chat(router)
    _, kind, rest = said.json()["path"].split("/", 2)
    assert kind in router.kinds and kind.startswith("chat-") and rest == "v1/chat/completions"
    assert said.json()["session"]


def test_the_chain_goes_to_serve_as_it_is(router: Router) -> None:
    asked = {"model": "chat", "question": "Who?", "documents": ["a", "b"]}
    said = router.ask("/v1/rag", asked)
    assert (said.status_code, said.json()) == (200, {"path": "/v1/rag", "body": asked, "session": None})


def test_other_paths_and_models_stay_unknown(router: Router) -> None:
    assert router.ask("/v1/ragged", {"model": "chat"}).json()["error"]
    assert router.ask("/v1/chat/completions", {"model": "nobody", "messages": []}).status_code == 404


def test_streams_that_break_off_do_not_take_out_their_kind(router: Router) -> None:
    def cut_by() -> str:
        with httpx.stream("POST", f"{router.url}{CHAT}", json={**HELLO, "stream": True}, trust_env=False) as said:
            with pytest.raises(httpx.RemoteProtocolError):
                said.read()
            return said.headers[INSTANCE]

    chat(router)
    meanwhile = set()
    with ThreadPoolExecutor(4) as clients:
        streams = [clients.submit(cut_by) for _ in range(4)]
        while not all(stream.done() for stream in streams):
            said = router.ask(CHAT, HELLO)
            meanwhile.add((said.status_code, said.headers.get(INSTANCE)))
    (kind,) = {stream.result() for stream in streams}
    assert meanwhile == {(200, kind)}


def test_proxies_that_vanish_are_not_asked_over_and_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the fewest requests of all, until their health is looked at again."""
    told: set[str] = set()

    class Busy(Serve):
        def answer(self, body: object) -> None:
            told.add(self.connection.getsockname()[0])
            time.sleep(0.05)
            super().answer(body)

    mortal = ["127.0.0.2", "127.0.0.3"]
    with ThreadPoolExecutor(8) as clients, serving("127.0.0.1", 0, Busy) as port, ExitStack() as living:
        for address in mortal:
            living.enter_context(serving(address, port, Busy))
        with routing(["127.0.0.1", *mortal], port, tmp_path, monkeypatch) as router:

            def statuses() -> set[int]:
                return set(clients.map(lambda _: router.ask(CHAT, HELLO).status_code, range(80)))

            chat(router)
            end = time.monotonic() + 30
            while len(told) < 3:
                told.clear()
                assert statuses() == {200} and time.monotonic() < end
            living.close()
            assert statuses() == {200}
