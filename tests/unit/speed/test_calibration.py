"""calibration.yaml: what it may say, what it changes, and what it must not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmfleet.planner.catalog import catalog
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.errors import InputError, InventoryError, UnknownNameError
from llmfleet.planner.figures import Expected
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.speed.calibration import calibrated
from llmfleet.planner.speed.instance import Load, instance_seen, instance_speed
from llmfleet.planner.speed.measurements import Measurement, as_document, read_measurements
from llmfleet.planner.speed.seen import Seen

DOCS = Path(__file__).parents[3] / "docs" / "calibration.md"
RUN = {"gpu": "A800-80G", "model": "Qwen/Qwen3-32B", "precision": "bf16", "tp": 2, "input_len": 1000,
       "output_len": 300, "concurrency": 16}  # fmt: skip
LOAD = Load(1000, 300, 16)


def text(*runs: dict[str, object]) -> str:
    return yaml.safe_dump({"version": 1, "measurements": list(runs)}, sort_keys=False)


def model(name: str = "Qwen/Qwen3-32B") -> Model:
    found = catalog().model(name)
    assert found is not None
    return found


def speed(gpu: Gpu, name: str = "Qwen/Qwen3-32B", tp: int = 2, load: Load = LOAD) -> Expected:
    return instance_speed(model(name), gpu, Shape(tp), EngineOptions(), load)


def seen(gpu: Gpu, load: Load = LOAD) -> Seen:
    return instance_seen(model(), gpu, Shape(2), EngineOptions(), load)


def with_runs(*runs: dict[str, object], gpu: str = "A800-80G") -> Gpu:
    return calibrated(catalog(), read_measurements(text(*runs))).gpu(gpu)


ESTIMATE = speed(catalog().gpu("A800-80G"))


def test_the_documented_file_is_one() -> None:
    written = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    (run,) = read_measurements(written)
    assert (run.gpu, run.tp, run.pp, run.prefix_hit, run.ttft_ms) == ("A800-80G", 4, 1, 0.6, 1480)
    assert set(yaml.safe_load(written)["measurements"][0]) <= set(Measurement.model_fields)
    table = {cell.strip(" `") for row in DOCS.read_text().split("\n") for cell in row.split("|")[1:2]}
    documented = {name.strip(" `") for cell in table for part in cell.split(" or ") for name in part.split(",")}
    assert documented >= set(Measurement.model_fields) - {"date"} | {"source"}


@pytest.mark.parametrize("load", [Load(1000, 300, 2), Load(1000, 300, rate=1.5)])
@pytest.mark.parametrize(("decode", "prefill"), [(1.3, 1.5), (0.7, 1.6), (1.6, 0.7)])
def test_the_measured_point_itself_comes_out_as_measured(load: Load, decode: float, prefill: float) -> None:
    before = seen(catalog().gpu("A800-80G"), load)
    ttft, token = 1000 * prefill * before.ttft_mean_s, 1000 * decode * before.token_s
    run = {**RUN, "concurrency": load.concurrency, "request_rate": load.rate, "tpot_ms": token, "ttft_ms": ttft}
    gpu = with_runs({name: value for name, value in run.items() if value is not None})
    assert 1000 * seen(gpu, load).token_s == pytest.approx(token, rel=0.02)
    assert 1000 * seen(gpu, load).ttft_mean_s == pytest.approx(ttft, rel=0.02)
    assert speed(gpu, load=load).source == "calibrated"


def test_what_prompts_take_of_a_step_follows_the_first_token() -> None:
    """As long as before with prompts that take less of it: a batch that decodes alone is slower then."""
    usual, load = catalog().gpu("A800-80G"), Load(1000, 300, 2)
    before = seen(usual, load)
    run = {**RUN, "concurrency": 2, "tpot_ms": 1000 * before.token_s, "ttft_ms": 600 * before.ttft_mean_s}
    gpu = with_runs(run)
    (pace,) = gpu.paces
    assert pace.prefill < 0.8
    assert 1.0 < pace.decode < 1.2
    assert seen(gpu, Load(100, 900, 16)).token_s > seen(usual, Load(100, 900, 16)).token_s


def test_tokens_per_second_do_in_place_of_tpot() -> None:
    got = speed(with_runs({**RUN, "output_tokens_per_s": ESTIMATE.output_tokens_per_s / 1.4}))
    assert got.output_tokens_per_s == pytest.approx(ESTIMATE.output_tokens_per_s / 1.4, rel=0.03)


def test_one_point_rescales_its_class_and_no_other() -> None:
    gpu = with_runs({**RUN, "tpot_ms": 2 * ESTIMATE.tpot_ms})
    before = speed(catalog().gpu("A800-80G"), "Qwen/Qwen3-14B").tpot_ms
    once = speed(gpu, "Qwen/Qwen3-14B").tpot_ms
    assert 1.5 * before < once < 1.8 * before  # it is another model
    more = [{**RUN, "concurrency": clients, "output_tokens_per_s": None} for clients in (15, 16, 17)]
    often = with_runs(*({**run, "tpot_ms": 2 * ESTIMATE.tpot_ms} for run in more))
    assert once < speed(often, "Qwen/Qwen3-14B").tpot_ms < 2.1 * before


def test_what_is_known_of_a_class_is_not_thrown_over_by_one_point() -> None:
    usual = catalog().gpu("H100-80G")
    run = {**RUN, "gpu": "H100-80G", "tpot_ms": 2 * speed(usual).tpot_ms}
    gpu = with_runs(run, gpu="H100-80G")
    ratio = speed(gpu, "Qwen/Qwen3-14B").tpot_ms / speed(usual, "Qwen/Qwen3-14B").tpot_ms
    assert 1.1 < ratio < 1.4
    assert speed(gpu).tpot_ms == pytest.approx(2 * speed(usual).tpot_ms, rel=0.02)


def test_no_other_class_is_touched() -> None:
    tuned = calibrated(catalog(), read_measurements(text({**RUN, "tpot_ms": 2 * ESTIMATE.tpot_ms})))
    assert speed(tuned.gpu("H20-96G")) == speed(catalog().gpu("H20-96G"))
    assert speed(catalog().gpu("A800-80G")) == ESTIMATE  # the packaged catalogue is as it was


def test_the_nearest_measurement_counts() -> None:
    slow = {**RUN, "model": "Qwen/Qwen3-14B", "tp": 1, "tpot_ms": 200}
    mine = {**RUN, "tpot_ms": ESTIMATE.tpot_ms}
    assert speed(with_runs(slow, mine)).tpot_ms == pytest.approx(ESTIMATE.tpot_ms, rel=0.01)
    assert speed(with_runs(slow)).tpot_ms > 1.5 * ESTIMATE.tpot_ms


def test_another_engine_is_not_touched() -> None:
    gpu = with_runs({**RUN, "engine": "llama.cpp", "precision": "q4_k_m", "tp": 1, "tpot_ms": 300})
    assert speed(gpu).tpot_ms == ESTIMATE.tpot_ms


def test_a_first_token_that_queued_says_nothing_of_prompts() -> None:
    load = {**RUN, "concurrency": 2000}
    queued = speed(catalog().gpu("A800-80G"), load=Load(1000, 300, 2000))
    gpu = with_runs({**load, "tpot_ms": queued.tpot_ms, "ttft_ms": 3 * queued.ttft_ms})
    assert gpu.paces[0].prefill == pytest.approx(gpu.paces[0].decode)


def test_embedding_is_calibrated_by_its_first_token() -> None:
    name, load = "BAAI/bge-m3", Load(500, 0, 1)
    before = speed(catalog().gpu("V100-32G"), name, 1, load)
    run = {"gpu": "V100-32G", "model": name, "precision": "fp16", "input_len": 500, "output_len": 0, "concurrency": 1}
    gpu = with_runs({**run, "ttft_ms": 1.5 * before.ttft_ms}, gpu="V100-32G")
    assert speed(gpu, name, 1, load).ttft_ms == pytest.approx(1.5 * before.ttft_ms, rel=0.02)


def test_unknown_models_wait_for_the_day_they_are_known() -> None:
    run = {**RUN, "model": "./ours", "tpot_ms": 2 * ESTIMATE.tpot_ms}
    assert with_runs(run).paces == ()
    gpu = calibrated(catalog(), read_measurements(text(run)), {"./ours": model()}.get).gpu("A800-80G")
    assert len(gpu.paces) == 1


def test_written_and_read_again() -> None:
    runs = read_measurements(text({**RUN, "tpot_ms": 40.5, "engine_version": "0.19.1"}))
    assert read_measurements(yaml.safe_dump(as_document(runs), sort_keys=False)) == runs
    assert read_measurements("version: 1\nmeasurements: []\n") == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tpot_ms": "90ms"}, 'tpot_ms: expected a number, not "90ms"'),
        ({"tpot_ms": -1}, "above 0"),
        ({"tpot": 40}, "Nearest: tpot_ms"),
        ({"tp": 0, "tpot_ms": 40}, "tp: expected a number of at least 1"),
        ({"input_len": "nan", "tpot_ms": 40}, "input_len"),
        ({"request_rate": 2, "tpot_ms": 40}, "one of the two"),
        ({}, "has no figure"),
        ({"tpot_ms": 40, "date": "yesterday"}, "is no date"),
        ({"tpot_ms": 40, "output_len": 0}, "neither a TPOT"),
        ({"tpot_ms": 40, "output_tokens_per_s": 4000}, "more than 400"),
        ({"tpot_ms": 40, "prefix_hit": 1}, "below 1"),
        ({"tpot_ms": 40, "engine": "sglang"}, "expected vllm or llama.cpp"),
    ],
)
def test_nonsense_is_refused_with_its_place(change: dict[str, object], says: str) -> None:
    with pytest.raises(InventoryError, match=says) as caught:
        read_measurements(text({**RUN, "tpot_ms": 40}, {**RUN, **change}), "c.yaml")
    assert str(caught.value).startswith("c.yaml:")
    assert all(p.line > 1 for p in caught.value.problems)


def test_figures_that_the_hardware_cannot_explain_are_refused() -> None:
    with pytest.raises(InputError, match=r"measurements\[0\]: tpot_ms is \d+ times faster"):
        with_runs({**RUN, "tpot_ms": 1})
    with pytest.raises(InputError, match=r"tpot_ms is \d+ times slower"):
        with_runs({**RUN, "tpot_ms": 40_000})
    with pytest.raises(UnknownNameError, match="A880"):
        with_runs({**RUN, "gpu": "A880-80G", "tpot_ms": 40})
    with pytest.raises(InputError, match=r"measurements\[0\] \(Qwen/Qwen3-32B on A800-80G\).*precision"):
        with_runs({**RUN, "precision": "fp7", "tpot_ms": 40})
