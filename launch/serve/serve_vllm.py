"""vLLM in Ray Serve, for serve_front.py: Serve LLM's own server, which also ranks (Serve LLM has no /v1/rerank)."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any, Dict, List

from pydantic import TypeAdapter, ValidationError
from ray.llm._internal.serve.core.configs.openai_api_models import (  # of these, the public module lacks two
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    ErrorResponse,
    ScoreRequest,
)
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from serve_pieces import EVENTS, Json, error_text, head_of, leave, placed
from vllm.v1.engine.exceptions import EngineDeadError

# path: the server's method, and what it takes
METHODS = {
    "/v1/chat/completions": ("chat", ChatCompletionRequest),
    "/v1/completions": ("completions", CompletionRequest),
    "/v1/embeddings": ("embeddings", EmbeddingRequest),
    "/v1/score": ("score", ScoreRequest),
}
RERANK = ("/v1/rerank", "/v2/rerank", "/rerank")


def deployment(config: Json) -> Any:
    """Called what the configuration calls it: Serve LLM would put the class before the name."""
    named = {"name": config["deployment_config"]["name"]}
    return build_llm_deployment(LLMConfig.model_validate(config), override_serve_options=named, deployment_cls=Server)


class Server(LLMServer):  # type: ignore[misc]
    async def __init__(self, llm_config: LLMConfig, **options: Any) -> None:  # type: ignore[misc]
        """The weights may lie elsewhere on every node."""
        loading = llm_config.model_loading_config
        loading.model_source = placed(loading.model_source)
        await super().__init__(llm_config, **options)

    async def check_health(self) -> None:
        try:
            await super().check_health()
        except EngineDeadError as error:
            leave(str(error))

    async def ask(self, path: str, body: Json) -> AsyncIterator[Any]:
        try:
            async for piece in self.answer(path, body):
                yield piece
        except EngineDeadError as error:
            leave(str(error))

    async def answer(self, path: str, body: Json) -> AsyncIterator[Any]:
        body = {**body, "model": self._llm_config.model_id}
        if path in RERANK:
            async for piece in self.rerank(body):
                yield piece
            return
        if path not in METHODS:
            yield head_of(404)
            yield error_text(404, "not in Ray Serve: %s. There are %s" % (path, ", ".join((*METHODS, RERANK[0]))))
            return
        method, kind = METHODS[path]
        try:
            request = TypeAdapter(kind).validate_python(body)
        except ValidationError as error:
            yield head_of(400)
            yield error_text(400, str(error))
            return
        begun = False
        async for item in await getattr(self, method)(request):
            first = item[0] if isinstance(item, list) else item
            if not begun:
                begun = True
                refused = isinstance(first, ErrorResponse)
                streamed = body.get("stream") and not refused
                yield head_of(200, EVENTS) if streamed else head_of(first.error.code if refused else 200)
            yield "".join(map(_text, item)) if isinstance(item, list) else _text(item)

    async def rerank(self, body: Json) -> AsyncIterator[Any]:
        """Of the query's scores with each document: as vLLM's /v1/rerank answers, best first."""
        documents = [d["text"] if isinstance(d, dict) else d for d in body.get("documents") or []]
        if not isinstance(body.get("query"), str) or not documents:
            yield head_of(400)
            yield error_text(400, 'wanted: {"query": "…", "documents": ["…", …]}')
            return
        request = ScoreRequest(model=body["model"], text_1=body["query"], text_2=documents)
        async for answer in await self.score(request):
            if isinstance(answer, ErrorResponse):
                yield head_of(answer.error.code)
                yield _text(answer)
                return
            scores = {item.index: item.score for item in answer.data}
            order = sorted(scores, key=lambda n: -scores[n])[: body.get("top_n") or len(documents)]
            yield head_of(200)
            yield _rank_answer(body["model"], documents, scores, order, answer.usage)


def _rank_answer(model: str, documents: List[str], scores: Dict[int, float], order: List[int], usage: Any) -> str:
    results = [{"index": n, "document": {"text": documents[n]}, "relevance_score": scores[n]} for n in order]
    told = {"id": "rerank-%s" % uuid.uuid4().hex, "model": model, "results": results}
    return json.dumps({**told, "usage": {"total_tokens": usage.total_tokens}})


def _text(item: Any) -> str:
    return item if isinstance(item, str) else str(item.model_dump_json())
