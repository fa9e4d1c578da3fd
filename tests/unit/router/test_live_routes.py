"""What clients see of the router, through a real Envoy."""

from __future__ import annotations

import http.client
import json

import pytest
from running import CHAT, RunningRouter, until

pytestmark = pytest.mark.live


def test_names_and_where_it_went(router: RunningRouter) -> None:
    for model in ("chat", "Qwen/Qwen1.5-72B-Chat"):
        answer = router.chat(model=model)
        assert answer.status == 200
        assert answer.instance == answer.json["engine"]
        assert answer.instance in {"chat-a", "chat-b", "chat-c"}
        assert answer.headers["x-llmfleet-pool"] == "chat/main"
        assert answer.headers["x-llmfleet-attempts"] == "1"
        assert "x-llmfleet-degraded" not in answer.headers
        assert answer.headers["server"] == "llmfleet"
        assert not [name for name in answer.headers if name.startswith("x-envoy-")]
    assert router.chat(model="chat-lite").headers["x-llmfleet-pool"] == "chat-lite/fallback"
    assert "x-llmfleet-degraded" not in router.chat(model="chat-lite").headers


@pytest.mark.parametrize(
    ("path", "model", "engine"),
    [
        ("/v1/embeddings", "embed", "embed-a"),
        ("/v1/embeddings", "BAAI/bge-m3", "embed-a"),
        ("/v1/rerank", "rank", "rank-a"),
        ("/v2/rerank", "rank", "rank-a"),
        ("/v1/score", "rank", "rank-a"),
        ("/tokenize", "embed", "embed-a"),
        ("/v1/completions?x=1", "chat-lite", "lite-a"),
        ("/v1/messages", "chat-lite", "lite-a"),
        ("/v1/responses", "chat-lite", "lite-a"),
    ],
)
def test_tasks(router: RunningRouter, path: str, model: str, engine: str) -> None:
    answer = router.post({"model": model, "input": "x"}, path)
    assert (answer.status, answer.instance, answer.json["path"]) == (200, engine, path)


@pytest.mark.parametrize(
    ("path", "model", "says"),
    [
        (CHAT, "embed", 'The model "embed" makes embeddings: POST to /v1/embeddings'),
        (CHAT, "BAAI/bge-m3", 'The model "embed" makes embeddings: POST to /v1/embeddings'),
        (CHAT, "rank", 'The model "rank" ranks texts: POST to /v1/rerank'),
        ("/v1/embeddings", "chat", 'The model "chat" generates text: POST to /v1/chat/completions'),
        ("/v1/rerank", "embed", 'The model "embed" makes embeddings'),
        ("/v1/nonsense", "chat", 'The model "chat" generates text'),
    ],
)
def test_wrong_task(router: RunningRouter, path: str, model: str, says: str) -> None:
    answer = router.post({"model": model, "input": "x"}, path)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert says in answer.json["error"]["message"]
    assert sum(engine.received for engine in router.engines.values()) == 0


@pytest.mark.parametrize("model", ["gpt-4", "cha", "chatt", "chat ", "", 'a"b\\\n', "é", "x" * 5000])
def test_unknown_model(router: RunningRouter, model: str) -> None:
    answer = router.chat(model=model)
    assert answer.status == 404
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    assert "chat, chat-lite, embed, rank" in error["message"]
    if model == "gpt-4":
        assert 'The model "gpt-4" does not exist' in error["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "must be a JSON object"),
        (b"hello", "must be a JSON object"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"model": "chat"', "not valid JSON"),
        (b'{"model": "chat",}', "not valid JSON"),
        (b'{"model" "chat"}', "not valid JSON"),
        (b'{"model": "chat"} {}', "not valid JSON"),
        (b'{"model": "chat}', "not valid JSON"),
        (b'{"a": [}', "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b', "model": "chat"}', "nested too deeply"),
        (b"{}", "must provide a model"),
        (b'{"messages": [{"model": "chat"}]}', "must provide a model"),
        (b'{"model": 7}', "must be a string"),
        (b'{"model": null}', "must be a string"),
        (b'{"model": "chat", "model": ["chat"]}', "must be a string"),
    ],
)
def test_bad_bodies(router: RunningRouter, body: bytes, says: str) -> None:
    answer = router.request("POST", CHAT, body, {"content-type": "application/json"})
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert says in answer.json["error"]["message"]


def test_model_list(router: RunningRouter) -> None:
    answer = router.get("/v1/models")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    cards = {card["id"]: card for card in answer.json["data"]}
    assert answer.json["object"] == "list"
    assert set(cards) == {s.name for s in router.plan.services} | {s.model for s in router.plan.services}
    assert cards["chat"] == {
        "id": "chat",
        "object": "model",
        "created": 0,
        "owned_by": "llmfleet",
        "root": "Qwen/Qwen1.5-72B-Chat",
        "parent": None,
        "max_model_len": 131072,
        "task": "generate",
    }
    assert router.get("/v1/models/Qwen/Qwen1.5-72B-Chat").json == cards["Qwen/Qwen1.5-72B-Chat"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", CHAT), ("DELETE", "/v1/models"), ("GET", "/v1/models/x")]
)
def test_unknown_path(router: RunningRouter, method: str, path: str) -> None:
    answer = router.request(method, path)
    assert answer.status == 404
    assert "No such path" in answer.json["error"]["message"]


def test_healthz(router: RunningRouter) -> None:
    assert router.get("/healthz").json == {"status": "ok"}


def test_forged_headers_are_stripped(router: RunningRouter) -> None:
    forged = {"x-llmfleet-model": "chat", "x-llmfleet-tokens": "99999", "x-llmfleet-prefix": "0", "x-llmfleet-new": "1"}
    answer = router.post({"model": "embed", "input": "x"}, "/v1/embeddings", {**forged, "x-envoy-max-retries": "9"})
    assert answer.instance == "embed-a"
    seen = answer.json["headers"]
    assert seen["x-llmfleet-model"] == "embed"
    assert seen["x-llmfleet-tokens"] != "99999"
    assert "x-llmfleet-new" not in seen
    assert router.request("GET", CHAT, headers=forged).status == 404


@pytest.mark.parametrize(("unit", "tokens"), [("word ", 1.25), ("\u7edf", 0.7), ("\N{ROCKET}", 0.95)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_long_prompts(router: RunningRouter, unit: str, tokens: float, ascii_only: bool) -> None:
    """The plan's limit is 16 000 tokens; bytes alone would be wrong by a factor of 2 for escaped CJK."""

    def ask(count: int) -> str:
        body = {"model": "chat", "messages": [{"role": "user", "content": unit * count}]}
        raw = json.dumps(body, ensure_ascii=ascii_only).encode()
        return router.request("POST", CHAT, raw, {"content-type": "application/json"}).headers["x-llmfleet-pool"]

    if unit == "\N{ROCKET}" and ascii_only:
        tokens = 1.4  # two escapes
    assert ask(int(15_900 / tokens)) == "chat/main"
    assert ask(int(16_100 / tokens)) == "chat/long"


def test_images_are_not_text(router: RunningRouter) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": [image, {"type": "text", "text": "what is it?"}]}],
    }
    answer = router.post(body)
    assert answer.headers["x-llmfleet-pool"] == "chat/main"
    assert 1000 <= int(answer.json["headers"]["x-llmfleet-tokens"]) < 1100


def test_body_limit(router: RunningRouter) -> None:
    assert router.chat("x" * (3 << 20), model="chat-lite").status == 200
    answer = router.chat("x" * (5 << 20))
    assert answer.status == 413
    assert answer.json["error"]["message"] == "Payload Too Large"


def test_header_limit(router: RunningRouter) -> None:
    answer = router.request("GET", "/healthz", headers={"x-large": "x" * 80_000})
    assert answer.status == 431
    assert answer.headers["content-type"] == "application/json"
    assert "error" in answer.json


def test_chunked_upload(router: RunningRouter) -> None:
    raw = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "x" * 50_000}]}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=20)
    connection.request("POST", CHAT, iter([raw[:20], raw[20:30_000], raw[30_000:]]), encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["model"]) == (200, "chat")
    connection.close()


def test_nothing_of_the_prompt_is_logged(router: RunningRouter) -> None:
    log = router.folder / "log"
    seen = log.read_text().count('"path":"/v1/models"')
    router.chat("a-secret-word")
    router.post({"model": "chat", "prompt": "a-secret-word"}, "/v1/completions?q=a-secret-word")
    router.get("/v1/models?q=a-secret-word")
    until(lambda: log.read_text().count('"path":"/v1/models"') > seen, "the last request is logged")
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    line = next(x for x in reversed(lines) if x["path"] == "/v1/completions" and x["model"] == "chat")
    assert (line["status"], line["route"], line["pool"]) == (200, "chat", "chat/main")
    assert "a-secret-word" not in log.read_text()
