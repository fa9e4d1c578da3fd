"""The plan as one application of Ray Serve: every kind of instance a deployment, one ingress in front of them all.

`serve deploy serve.yaml` builds it from `app(args)`. Paths are /KIND/v1/… for a kind of instance, as its engine has
them, /KIND/health, and /v1/rag for the chain embed, rerank, generate. Every deployment answers `ask`: first one
dictionary with the status and the type of what follows, when the first piece of the answer is there; then its text.
Needs nothing but ray[serve] here; serve_vllm.py, beside it, has what needs vLLM. Serve pickles an ingress with what its
module has defined so far, so that the rest is in modules of its own.
"""

import asyncio
from typing import Any, Dict, List, Optional

from fastapi import FastAPI, Request
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from serve_engine import Engine
from serve_pieces import Json, NobodyError, Pieces, error_text, head_of, refusal, respond
from serve_rag import Rag
from starlette.responses import Response

TRIES = 3  # of a request whose replica died before it answered
GONE = (RayActorError, DeploymentUnavailableError, NobodyError)
http = FastAPI()


def app(args: Json) -> Any:
    """`args`: {"kinds": {KIND: {"names": […], "llm_config": {…}} or {"names": […], "engine": {…}, "options": {…}}},
    "rag": {…} or None, "ingress": {…}}."""
    handles: Json = {}
    names: Json = {}
    for kind, spec in args["kinds"].items():
        names[kind] = spec["names"]
        if "llm_config" in spec:
            from serve_vllm import deployment

            handles[kind] = deployment(spec["llm_config"])
        else:
            handles[kind] = serve.deployment(Engine, name=kind, **spec["options"]).bind(**spec["engine"])
    front: Any = Ingress
    return front.options(**args["ingress"]).bind(handles, names, args["rag"])


@serve.deployment(name="ingress", max_ongoing_requests=100_000)
@serve.ingress(http)
class Ingress:
    def __init__(self, handles: Json, names: Dict[str, List[str]], rag: Optional[Json]) -> None:
        self.handles = {kind: handle.options(stream=True) for kind, handle in handles.items()}
        self.names = names
        self.rag = Rag(self, **rag) if rag else None

    @http.post("/v1/rag")  # type: ignore[untyped-decorator]
    async def answer_with_passages(self, request: Request) -> Any:
        if self.rag is None:
            return refusal(404, "this fleet has no embedding, ranking and generating service")
        return await self.rag.answer(await request.json())

    @http.get("/{kind}/health")  # type: ignore[untyped-decorator]
    async def health(self, kind: str) -> Any:
        return Response(status_code=200 if kind in self.handles and self.running(kind) else 503)

    def running(self, kind: str) -> Optional[int]:
        """Replicas, as the controller told the handle of the kind last; None where it has not yet. Ray has no public
        word for it, and the controller cannot be asked: replicas serve on while it and Ray's head are away."""
        router = self.handles[kind]._router._asyncio_router.request_router
        return None if router is None else len(router.curr_replicas)

    @http.post("/{kind}/{path:path}")  # type: ignore[untyped-decorator]
    async def forward(self, kind: str, path: str, request: Request) -> Any:
        if kind not in self.handles:
            return refusal(404, "no kind of instance is called %s: %s" % (kind, ", ".join(self.handles)))
        body = await request.json()
        if body.get("model") not in (None, *self.names[kind]):
            return refusal(404, "%s does not serve %s" % (kind, body["model"]))
        return await respond(self.ask(kind, "/" + path, body, request.headers.get("x-session-id", "")))

    async def ask(self, kind: str, path: str, body: Json, session: str = "") -> Pieces:
        """Pieces of the answer. A replica that dies before its first piece has the request asked of another of its
        kind; where there is none, who asked is told at once, and may ask another kind."""
        handle = self.handles[kind].options(session_id=session) if session else self.handles[kind]
        for left in reversed(range(TRIES)):
            begun = False
            pieces = handle.ask.remote(path, body)
            try:
                head = await self.first(kind, pieces)
                begun = True
                yield head
                async for piece in pieces:
                    yield piece
                return
            except BackPressureError:
                yield head_of(503)
                yield error_text(503, "%s is full" % kind)
                return
            except GONE:
                if begun:
                    raise
                if not left or not self.running(kind):
                    yield head_of(503)
                    yield error_text(503, "replicas of %s died" % kind)
                    return

    async def first(self, kind: str, pieces: Any) -> Any:
        """Its first piece. Ray keeps a request until a replica comes, however long that takes: no longer than there
        is one that runs, since another kind may answer."""
        task = asyncio.ensure_future(pieces.__anext__())
        while not (await asyncio.wait({task}, timeout=1.0))[0]:
            if self.running(kind) == 0:
                task.cancel()
                pieces.cancel()
                raise NobodyError(kind)
        return task.result()
