"""What clients ask a simulated engine and how it answers: OpenAI's shapes, as vLLM fills them.

Tokens are four bytes of text, or the ids of a prompt that is given as ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BYTES_A_TOKEN = 4
MESSAGE_TOKENS = 4  # what a chat template puts around each message
DEFAULT_ANSWER = {"/v1/completions": 16, "/v1/chat/completions": 128}
WORD = " sim"  # one token of four bytes
MOST_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class Prompt:
    """`hashes`: of whole blocks of tokens, each together with all before it. `items`: texts to embed or to rank."""

    model: str
    tokens: int
    hashes: tuple[int, ...]
    answer: int
    stream: bool
    usage: bool
    items: int = 1


def read_prompt(body: bytes, path: str, block: int) -> Prompt:
    """Raises ValueError in words for the client."""
    try:
        asked = json.loads(body)
        model = asked["model"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("a JSON object with a model is needed") from None
    parts = _parts(asked, path)
    tokens = max(1, sum(len(p) if isinstance(p, list) else -(-len(p) // BYTES_A_TOKEN) for p in parts))
    tokens += MESSAGE_TOKENS * len(asked.get("messages", ()))
    if tokens > MOST_TOKENS:
        raise ValueError("the prompt is too long")
    options = asked.get("stream_options") or {}
    answer = asked.get("max_completion_tokens") or asked.get("max_tokens") or DEFAULT_ANSWER.get(path, 1)
    return Prompt(
        model=str(model),
        tokens=tokens,
        hashes=tuple(_hashes(parts, block)),
        answer=int(answer),
        stream=bool(asked.get("stream")),
        usage=bool(options.get("include_usage")),
        items=len(parts),
    )


def _parts(asked: dict[str, Any], path: str) -> list[bytes | list[int]]:
    if path == "/v1/chat/completions":
        return [text for message in asked.get("messages", ()) for text in _content(message.get("content"))]
    if path == "/v1/completions":
        prompt = asked.get("prompt", "")
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            raise ValueError("one prompt a request")
        return [prompt if isinstance(prompt, list) else str(prompt).encode()]
    if path == "/v1/embeddings":
        given = asked.get("input", "")
        many = given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
        return [item if isinstance(item, list) else str(item).encode() for item in many]
    documents = asked.get("documents", asked.get("text_2", ()))
    many = documents if isinstance(documents, list) else [documents]
    query = str(asked.get("query", asked.get("text_1", "")))
    return [(query + str(d.get("text", "") if isinstance(d, dict) else d)).encode() for d in many]


def _content(content: Any) -> list[bytes]:
    if isinstance(content, list):
        return [str(part.get("text", "")).encode() for part in content if isinstance(part, dict)]
    return [str(content or "").encode()]


def _hashes(parts: Sequence[bytes | list[int]], block: int) -> list[int]:
    if len(parts) == 1 and isinstance(parts[0], list):
        whole: Sequence[Any] = tuple(parts[0])
        size = block
    else:
        whole = b"".join(p for p in parts if isinstance(p, bytes))
        size = block * BYTES_A_TOKEN
    found, before = [], 0
    for at in range(0, len(whole) - size + 1, size):
        before = hash((before, whole[at : at + size]))
        found.append(before)
    return found


def chunk(prompt: Prompt, path: str, n: int, *, done: bool) -> str:
    reason = "length" if done else None
    if path == "/v1/completions":
        choice: dict[str, Any] = {"index": 0, "text": WORD, "logprobs": None, "finish_reason": reason}
        return _object("text_completion", prompt.model, [choice])
    delta = {"role": "assistant", "content": WORD} if n == 1 else {"content": WORD}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _object("chat.completion.chunk", prompt.model, [choice])


def usage_chunk(prompt: Prompt, path: str, made: int, cached: int) -> str:
    kind = "text_completion" if path == "/v1/completions" else "chat.completion.chunk"
    return _object(kind, prompt.model, [], usage(prompt, made, cached))


def completion(prompt: Prompt, path: str, made: int, cached: int) -> dict[str, Any]:
    text = WORD * made
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
    if path == "/v1/completions":
        kind, choice = "text_completion", {**choice, "text": text}
    else:
        kind, choice = "chat.completion", {**choice, "message": {"role": "assistant", "content": text}}
    body: dict[str, Any] = json.loads(_object(kind, prompt.model, [choice], usage(prompt, made, cached)))
    return body


def embedding(prompt: Prompt) -> dict[str, Any]:
    vectors = [{"object": "embedding", "index": i, "embedding": [0.0] * 8} for i in range(prompt.items)]
    spent = {"prompt_tokens": prompt.tokens, "total_tokens": prompt.tokens}
    return {"object": "list", "model": prompt.model, "data": vectors, "usage": spent, "simulated": True}


def scores(prompt: Prompt) -> dict[str, Any]:
    results = [{"index": i, "relevance_score": 0.0} for i in range(prompt.items)]
    return {"id": "simulated", "model": prompt.model, "results": results, "usage": {"total_tokens": prompt.tokens}}


def usage(prompt: Prompt, made: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt.tokens, "completion_tokens": made, "total_tokens": prompt.tokens + made,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


def _object(kind: str, model: str, choices: list[dict[str, Any]], spent: dict[str, Any] | None = None) -> str:
    body = {"id": "simulated", "object": kind, "created": 0, "model": model, "choices": choices}
    return json.dumps(body if spent is None else {**body, "usage": spent})
