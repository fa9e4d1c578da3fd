"""Retrieval, ranking and generation as one request, for serve_front.py."""

import json
import math
import random
from typing import Any, Dict, List, Sequence

from serve_pieces import EVENTS, Json, Pieces, RefusedError, refusal
from starlette.responses import JSONResponse, StreamingResponse


class Rag:
    """Documents and a question in, an answer with the passages it rests on out."""

    def __init__(self, ingress: Any, embed: Json, rerank: Json, generate: Json, candidates: int, passages: int) -> None:
        """`embed`, `rerank`, `generate`: {service: {KIND: weight of a replica}}. `candidates` go from the embedding to
        the ranking, `passages` of them into the prompt."""
        self.ingress, self.embed, self.rerank, self.generate = ingress, embed, rerank, generate
        self.candidates, self.passages = candidates, passages

    async def answer(self, body: Json) -> Any:
        question, documents = body.get("question"), body.get("documents")
        texts = isinstance(documents, list) and all(isinstance(d, str) and d for d in documents)
        if not isinstance(question, str) or not isinstance(documents, list) or not (question and documents and texts):
            return refusal(400, 'wanted: {"model", "question": "…", "documents": ["…", …]}')
        service = body.get("model", next(iter(self.generate)))
        if service not in self.generate:
            return refusal(404, "%s does not generate: %s" % (service, ", ".join(self.generate)))
        try:
            near = await self.nearest(question, documents)
            chosen = await self.ranked(question, documents, near)
        except RefusedError as error:
            return refusal(error.status, str(error))
        prompt = "Answer from these passages alone.\n\n" + "\n\n".join(
            "[%d] %s" % (n, c["text"]) for n, c in enumerate(chosen, 1)
        )
        messages = [{"role": "user", "content": "%s\n\nQuestion: %s" % (prompt, question)}]
        kept: Json = {key: body[key] for key in ("max_tokens", "temperature", "seed", "stream") if key in body}
        pieces = self.chat(service, {"model": service, "messages": messages, **kept})
        head = await pieces.__anext__()
        if head["type"] == EVENTS:
            return StreamingResponse(_with_passages(chosen, pieces), head["status"], media_type=EVENTS)
        whole = json.loads("".join([piece async for piece in pieces]))
        return JSONResponse({**whole, "passages": chosen} if head["status"] == 200 else whole, head["status"])

    async def nearest(self, question: str, documents: List[str]) -> List[int]:
        """Indices of the documents whose embeddings are nearest, best first."""
        (service, kinds), *_ = self.embed.items()
        body = {"model": service, "input": [question, *documents]}
        data = (await self.whole(kinds, "/v1/embeddings", body))["data"]
        asked, *vectors = [item["embedding"] for item in sorted(data, key=lambda item: item["index"])]
        order = sorted(range(len(documents)), key=lambda n: -_cosine(asked, vectors[n]))
        return order[: self.candidates]

    async def ranked(self, question: str, documents: List[str], near: List[int]) -> List[Json]:
        (service, kinds), *_ = self.rerank.items()
        body = {"model": service, "query": question, "documents": [documents[n] for n in near]}
        results = (await self.whole(kinds, "/v1/rerank", body))["results"]
        scores = {r["index"]: r["relevance_score"] for r in results}
        best = sorted(scores.items(), key=lambda found: -found[1])[: self.passages]
        return [{"index": near[n], "text": documents[near[n]], "score": score} for n, score in best]

    async def whole(self, kinds: Dict[str, int], path: str, body: Json) -> Any:
        pieces = self.first_that_answers(kinds, path, body)
        head = await pieces.__anext__()
        text = "".join([piece async for piece in pieces])
        if head["status"] != 200:
            raise RefusedError(head["status"], text)
        return json.loads(text)

    def chat(self, service: str, body: Json) -> Pieces:
        return self.first_that_answers(self.generate[service], "/v1/chat/completions", body)

    def weights(self, kinds: Dict[str, int]) -> Dict[str, int]:
        """Of the replicas that each has now; of one where that is not known, or none runs."""
        return {kind: weight * (self.ingress.running(kind) or 1) for kind, weight in kinds.items()}

    async def first_that_answers(self, kinds: Dict[str, int], path: str, body: Json) -> Pieces:
        """By weight, and another kind where one is full or gone."""
        for left, kind in reversed(list(enumerate(reversed(_shuffled(self.weights(kinds)))))):
            pieces = self.ingress.ask(kind, path, body)
            head = await pieces.__anext__()
            if left and head["status"] in (429, 503):
                continue
            yield head
            async for piece in pieces:
                yield piece
            return


async def _with_passages(chosen: List[Json], pieces: Pieces) -> Pieces:
    yield "event: passages\ndata: %s\n\n" % json.dumps({"passages": chosen})
    async for piece in pieces:
        yield piece


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    lengths = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / (lengths or 1.0)


def _shuffled(kinds: Dict[str, int]) -> List[str]:
    """Each first as often as its weight says."""
    return sorted(kinds, key=lambda kind: random.random() ** (1.0 / kinds[kind]), reverse=True)  # noqa: S311 - a share
