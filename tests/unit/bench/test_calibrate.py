"""What of a run is written to calibration.yaml, and what of the file stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.simulate.engines import planned

from llmfleet.launch.bench.calibrate import throughput, write_calibration
from llmfleet.launch.bench.client import address
from llmfleet.launch.bench.measure import THE_SLO, Knee
from llmfleet.launch.bench.prompts import Shape
from llmfleet.launch.bench.startup import Startup, from_metrics, said
from llmfleet.planner.speed.measurements import read_calibration
from llmfleet.planner.speed.throughputs import ThroughputTable

BY_HAND = """
measurements:
  - {gpu: A10G, model: m, precision: bf16, input_len: 10, output_len: 5, concurrency: 1, tpot_ms: 20}
throughputs:
  - {gpu: A10G, model: m, input: [100, 1000], output: [100, 500], requests_per_s: [[2, 1], [5, 2]]}
"""


def cell(rate: float, tokens: int, source: str = "llmfleet bench, chat-a-0-0") -> ThroughputTable:
    return ThroughputTable(
        gpu="A10G", model="m", input=(tokens,), output=(50,), requests_per_s=((rate,),), source=source
    )  # fmt: skip


def test_a_knee_that_the_slo_bounds_is_what_the_instance_takes() -> None:
    decision, plan = planned()
    instance = next(i for i in plan.instances if i.task == "generate")
    shape = Shape(700.0, None, 48.0)
    found = throughput(decision.inventory, instance, shape, Knee(instance.id, 3.14159, THE_SLO, ()))
    assert found is not None
    assert (found.input, found.output, found.requests_per_s) == ((700,), (48,), ((3.142,),))
    assert (found.tp, found.model) == (instance.tp, instance.model)


@pytest.mark.parametrize(("rate", "by"), [(0.0, THE_SLO), (3.0, "nothing yet"), (3.0, "the client: it is slow")])
def test_other_knees_say_nothing_of_the_instance(rate: float, by: str) -> None:
    decision, plan = planned()
    shape = Shape(700.0, None, 48.0)
    assert throughput(decision.inventory, plan.instances[0], shape, Knee("i", rate, by, ())) is None


def test_what_people_wrote_stays(tmp_path: Path) -> None:
    file = tmp_path / "calibration.yaml"
    file.write_text(BY_HAND)
    assert write_calibration(file, [], [cell(1.0, 700), cell(2.0, 300)]) == 4
    assert write_calibration(file, [], [cell(3.0, 700)]) == 4, "the later of the same instance and lengths counts"
    found = read_calibration(file.read_bytes())
    assert [m.tpot_ms for m in found.measurements] == [20]
    assert [(t.input, t.requests_per_s) for t in found.throughputs] == [
        ((100, 1000), ((2, 1), (5, 2))), ((300,), ((2.0,),)), ((700,), ((3.0,),)),
    ]  # fmt: skip


# From the logs of public start-ups (tests/data/accuracy/startups.jsonl has their sources), and of vLLM 0.32 on CPU.
LOGS = [
    ("INFO 07-04 model_runner.py:1110] Loading model weights took 14.9595 GB", Startup(weights_gib=14.9595)),
    ("INFO [gpu_model_runner.py:3421] Model loading took 27.5185 GiB and 9.43 seconds", Startup(weights_gib=27.5185)),
    ("INFO [gpu_model_runner.py:4115] Model loading took 3.63 GiB memory and 2.1 seconds", Startup(weights_gib=3.63)),
    ("INFO [kv_cache_utils.py:1287] GPU KV cache size: 1,134,336 tokens", Startup(kv_tokens=1134336)),
    ("INFO [kv_cache_utils.py:2327] CPU KV cache size: 7,680 tokens, Maximum concurrency for 2,048 tokens per "
     "request: 3.75x", Startup(kv_tokens=7680)),
    ("INFO [default_loader.py:501] Loading weights took 0.01 seconds", Startup()),
]  # fmt: skip


@pytest.mark.parametrize(("line", "told"), LOGS)
def test_what_a_start_up_logs(line: str, told: Startup) -> None:
    assert said(Startup(), [line]) == told


def test_the_last_start_up_counts() -> None:
    lines = ["GPU KV cache size: 10 tokens", "Model loading took 1.0 GiB", "GPU KV cache size: 20 tokens"]
    assert said(Startup(kv_blocks=5), lines) == Startup(5, 20, 1.0)


def test_an_engine_that_says_nothing() -> None:
    assert from_metrics(address("http://127.0.0.1:9")) == Startup()
