"""Past estimates against what was measured, and the calibration that follows from a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.unit.simulate.engines import FLEET

from llmfleet.cli.app import main
from llmfleet.launch.bench.calibrate import write_calibration
from llmfleet.launch.bench.compare import ACCURACY, Compared
from llmfleet.planner.speed.measurements import Measurement, read_measurements


def compared(tpot: float, ttft: float, gpu: str = "H100-80G", source: str = "roofline") -> Compared:
    return Compared("chat-big-0-0", gpu, source, ttft, 100.0, tpot, 10.0)


def folder(tmp_path: Path, *rows: Compared) -> str:
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(FLEET)
    if rows:
        (tmp_path / ".llmfleet").mkdir()
        lines = [json.dumps({"at": "2026-11-25T23:00:00+00:00", **asdict(row)}) for row in rows]
        (tmp_path / ".llmfleet" / ACCURACY).write_text("\n".join(lines) + "\n")
    return str(inventory)


def test_errors_are_relative_to_what_was_measured() -> None:
    one = compared(11.0, 50.0)
    assert one.tpot_error == pytest.approx(0.1) and one.ttft_error == -0.5
    assert not one.apart and compared(8.0, 100.0).apart
    assert Compared("e", "V100-32G", "roofline", 130.0, 100.0, None, None).apart, "without tokens the TTFT decides"


def test_past_estimates_by_gpu_and_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [compared(11, 100), compared(12, 150), compared(16, 90), compared(10, 100, source="calibrated")]
    path = folder(tmp_path, *rows)
    assert main(["plan", path, "--accuracy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["accuracy"]
    assert [(r["source"], r["count"]) for r in found] == [("roofline", 3), ("calibrated", 1)]
    assert found[0]["tpot"] == {"median": pytest.approx(0.2), "worst": pytest.approx(0.6)}
    assert main(["plan", path, "--accuracy"]) == 0
    assert "20.0 %" in capsys.readouterr().out


def test_without_measurements_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", folder(tmp_path), "--accuracy"]) == 2
    assert "nothing was measured yet" in capsys.readouterr().err
    path = folder(tmp_path, compared(1, 1))
    (tmp_path / ".llmfleet" / ACCURACY).write_text("{}\n")
    assert main(["plan", path, "--accuracy"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_later_run_of_the_same_instance_replaces_the_earlier(tmp_path: Path) -> None:
    file = tmp_path / "calibration.yaml"

    def one(source: str, tpot: float) -> Measurement:
        return Measurement(
            gpu="H100-80G", model="m", precision="bf16", input_len=10, output_len=5, concurrency=2, tpot_ms=tpot,
            source=source,
        )  # fmt: skip

    assert write_calibration(file, [one("llmfleet bench, a", 10.0), one("llmfleet bench, b", 11.0)]) == 2
    assert write_calibration(file, [one("llmfleet bench, a", 12.0)]) == 2
    assert [(m.source, m.tpot_ms) for m in read_measurements(file.read_bytes())] == [
        ("llmfleet bench, b", 11.0),
        ("llmfleet bench, a", 12.0),
    ]
    assert file.read_text().startswith("# Written by llmfleet bench")
