"""A model's config.json from the hub or a mirror, only when asked: HF_ENDPOINT, Hugging Face, ModelScope."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmfleet.planner.errors import InputError, TransportError

MODEL_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
LARGEST = 8 << 20
FILES = ("config.json", "model.safetensors.index.json")


def config_urls(model_id: str, file: str) -> tuple[str, ...]:
    """Where to ask, in order. A mirror that was named stands alone."""
    mirror = os.environ.get("HF_ENDPOINT")
    if mirror:
        return (f"{mirror.rstrip('/')}/{model_id}/resolve/main/{file}",)
    return (
        f"https://huggingface.co/{model_id}/resolve/main/{file}",
        f"https://modelscope.cn/models/{model_id}/resolve/master/{file}",
    )


@contextmanager
def fetched_config(model_id: str, *, timeout: float = 20.0) -> Iterator[Path]:
    """A folder with what was found, gone afterwards. Raises InputError: no such model; TransportError: no network."""
    if not MODEL_ID.match(model_id):
        raise InputError(f'"{model_id}" is no model id', hint="Write it as organization/name.")
    with tempfile.TemporaryDirectory(prefix="llmfleet-") as folder:
        config = _get(config_urls(model_id, FILES[0]), timeout)
        if config is None:
            raise InputError(f"{model_id}: the hub has no such model or does not show its config.json")
        Path(folder, FILES[0]).write_bytes(config)
        yield Path(folder)


def _get(urls: tuple[str, ...], timeout: float) -> bytes | None:
    import httpx

    problems = []
    for url in urls:
        try:
            answer = httpx.get(url, timeout=timeout, follow_redirects=True)
        except httpx.HTTPError as error:
            problems.append(f"{url}: {type(error).__name__}")
            continue
        if answer.status_code == 200 and len(answer.content) <= LARGEST:
            return answer.content
    if len(problems) == len(urls):
        raise TransportError(
            "no hub could be reached: " + "; ".join(problems), hint="Give a folder with the model's config.json."
        )
    return None
