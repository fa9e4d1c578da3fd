"""`llmfleet export ray-serve` on several hosts: the exported files, by the commands that the export prints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import chat, embed, inventory_yaml, rerank, story
from tests.lab.lab import Lab
from tests.lab.load import Load
from tests.lab.on_serve import Serve, serving

pytestmark = [pytest.mark.lab, pytest.mark.long]

FAST, SLOW = "chat-h1", "chat-h2"  # two kinds of instance of one service
PASSAGES = ["The office opens at nine.", "Licensed works may be redistributed with their notice.", "Cats sleep a lot."]


@pytest.fixture(scope="module")
def served(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    fleet = LabFleet(lab, tmp_path_factory.mktemp("serve"))
    real = {"model": str(engine_env.embed), "path": str(engine_env.embed)}  # ranks by similarity; the other is random
    services = [chat(engine_env, ["h1"], ["h2"]), embed(engine_env, ["h3"]), rerank(engine_env, ["h3"]) | real]
    services.append(story(engine_env, ["h4"]))
    gpus = {"h2": "1 x CPU-3G", "h3": "2 x CPU-2G", "h4": "1 x CPU-4G", "h5": None}
    fleet.write(inventory_yaml(lab, engine_env, services, gpus=gpus))
    fleet.ok("plan")
    with serving(fleet, engine_env, {FAST: 1, SLOW: 1, "embed-h3": 1, "rerank-h3": 1, "story-h4": 1}) as made:
        yield made


def test_requests_of_every_kind_are_answered(served: Serve) -> None:
    for model in ("chat", "story"):
        messages = [{"role": "user", "content": "Hi"}]
        said = served.ask("/v1/chat/completions", model=model, messages=messages, max_tokens=4)
        assert said.status_code == 200, said.text
    said = served.ask("/v1/embeddings", model="embed", input=["a cat sits", "a kitten rests"])
    assert said.status_code == 200 and len(said.json()["data"]) == 2, said.text
    said = served.ask("/v1/rerank", model="rerank", query="a cat", documents=["a kitten", "a stock market"])
    assert said.status_code == 200 and len(said.json()["results"]) == 2, said.text


def test_both_kinds_of_the_service_answer(served: Serve) -> None:
    seen = set()
    for n in range(40):
        said = served.ask(
            "/v1/chat/completions", model="chat", messages=[{"role": "user", "content": f"Clause {n}"}], max_tokens=2
        )
        seen.add(said.headers["x-llmfleet-instance"])
    assert seen == {FAST, SLOW}


def test_the_chain_answers_with_the_right_passage_first(served: Serve) -> None:
    question = "May licensed works be redistributed?"
    said = served.ask("/v1/rag", model="chat", question=question, documents=PASSAGES, max_tokens=4)
    assert said.status_code == 200, said.text
    assert said.json()["passages"][0]["index"] == 1
    assert said.json()["choices"]


def test_a_replica_that_dies_loses_no_request(served: Serve) -> None:
    with Load(served.url, "chat", clients=4) as load:
        load.wait_for(8, seconds=120)
        kill_engine(served, "h1")
        load.wait_for(8, seconds=120)
        served.wait({FAST: 1})
        load.wait_for(8, seconds=120)
    load.stop()
    assert not [r for r in load.failed if not r.streaming], load.summary()


def kill_engine(served: Serve, host: str) -> None:
    """The process of the engine's own, below its replica."""
    named = [p for p in served.fleet.lab[host].processes() if p.argv and "EngineCore" in " ".join(p.argv)]
    assert named, [p.argv for p in served.fleet.lab[host].processes()]
    for process in named:
        served.fleet.lab[host].exec(["kill", "-9", str(process.pid)])
