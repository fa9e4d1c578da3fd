"""Keeps an application of Ray Serve deployed, on the head of its Ray cluster, and says at /status how it is.

`llmfleet up --runtime ray-serve` runs it under its supervisor. It only talks to Serve's controller: replicas need it as
little as they need the controller. What it deploys is deployed again when Ray has lost it; an equal configuration
changes nothing. When it is stopped, the application stays.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict

import ray
import yaml
from ray.serve._private.api import serve_start
from ray.serve.config import ProxyLocation
from ray.serve.schema import ServeDeploySchema

Json = Dict[str, Any]
LOOK_S = 1.0
SILENT_S = 20.0  # no word from the controller for so long: it is not well
ANSWER_S = 10.0
log = logging.getLogger("serve_keeper")


class Keeper:
    def __init__(self, config: Json) -> None:
        self.config = config
        (application,) = config["applications"]
        self.name: str = application["name"]
        self.seen: Json = {"status": "NOT_STARTED", "message": "", "kinds": {}, "proxies": {}, "nodes": []}
        self.ran = False  # whether all of it has run since this process began
        self.heard = 0.0
        self.told: Dict[str, str] = {}  # the last message of each kind

    @property
    def well(self) -> bool:
        return self.ran and time.monotonic() - self.heard < SILENT_S

    def run(self) -> None:
        client = serve_start(
            http_options=self.config["http_options"], proxy_location=ProxyLocation(self.config["proxy_location"])
        )
        client.deploy_apps(ServeDeploySchema.model_validate(self.config))
        while True:
            self.look(client)
            if self.seen["status"] == "DEPLOY_FAILED" and not self.ran:
                sys.exit("RuntimeError: Ray Serve could not deploy %s" % reasons(self.seen))
            time.sleep(LOOK_S)

    def look(self, client: Any) -> None:
        """While the controller is away, what it said last is what is known."""
        try:
            told = ray.get(client._controller.get_serve_instance_details.remote(), timeout=ANSWER_S)
        except Exception as error:  # whatever it is
            log.warning("the controller did not answer: %s", error)
            return
        if self.name not in told["applications"]:
            log.warning("Serve does not know %s: deploying it again", self.name)
            client.deploy_apps(ServeDeploySchema.model_validate(self.config))
            return
        alive = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        self.seen = {**summary(told, self.name), "nodes": alive}
        self.heard = time.monotonic()
        self.tell()
        self.ran = self.ran or self.seen["status"] == "RUNNING"


    def tell(self) -> None:
        """What Serve says of a kind, once: why a replica did not start, before it has given up trying."""
        for kind, each in self.seen["kinds"].items():
            if each["message"] and each["message"] != self.told.get(kind):
                log.warning("%s: %s", kind, each["message"])
            self.told[kind] = each["message"]


def summary(told: Json, name: str) -> Json:
    """Of Serve's own details, what is asked of us: each kind's target, and its replicas by state and node."""
    application = told["applications"][name]
    kinds = {}
    for kind, each in application["deployments"].items():
        replicas = [{"state": plain(r["state"]), "ip": r.get("node_ip")} for r in each["replicas"]]
        told_of = {"status": plain(each["status"]), "message": telling(each["message"])}
        kinds[kind] = {**told_of, "target": each["target_num_replicas"], "replicas": replicas}
    proxies = {p["node_ip"]: plain(p["status"]) for p in told["proxies"].values()}
    found = {"status": plain(application["status"]), "message": telling(application["message"])}
    return {**found, "kinds": kinds, "proxies": proxies}


def telling(message: str) -> str:
    """Of Serve's message the line that names the error, which the traceback of a replica has last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return ([line for line in lines if "Error: " in line][-1:] or lines or [""])[0]


def reasons(seen: Json) -> str:
    """Why a deployment failed: kind by kind, or what Serve says of the whole."""
    failed = ["%s: %s" % (k, v["message"]) for k, v in seen["kinds"].items() if v["status"] == "DEPLOY_FAILED"]
    return "; ".join(failed) or "the application: %s" % seen["message"]


def plain(word: Any) -> str:
    return str(getattr(word, "value", word))


def answer_with(keeper: Keeper, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in ("/health", "/status"):
                self.send_error(404)
                return
            body = json.dumps({**keeper.seen, "well": keeper.well}).encode()
            self.send_response(200 if keeper.well or self.path == "/status" else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A question each second is not worth a line."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description="Keeps an application of Ray Serve deployed.")
    parser.add_argument("config")
    parser.add_argument("--digest", required=True, help="of the configuration: another one is another process")
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s")
    keeper = Keeper(yaml.safe_load(Path(asked.config).read_text()))
    answer_with(keeper, asked.port)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # nothing is to be ended with it
    ray.init(log_to_driver=False, logging_level=logging.WARNING, namespace="serve")
    keeper.run()


if __name__ == "__main__":
    main()
