"""Files that a person names may be anything: pipes with and without a writer, devices, folders, too much."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmfleet.launch.models.files import read_model
from llmfleet.launch.named_files import read_named
from llmfleet.launch.traffic_files import trace_of
from llmfleet.planner.errors import InputError, ModelError

ROWS = "TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,10\n2,300,30\n"
FLEET = """\
cluster: t
nodes: [{name: a, host: 10.0.0.1, gpus: 8 x H100-80G}]
services: [{name: s, model: MODEL, traffic: {rate: 1}}]
"""


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_named(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_named(tmp_path / "file", 4)
    with (tmp_path / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(OSError, match="larger than 1024 MiB"):
        read_named(tmp_path / "sparse")


def test_a_pipe_that_nobody_writes_to_is_empty(pipe: Path) -> None:
    assert read_named(pipe) == b""
    with pytest.raises(InputError, match="holds no request"):
        trace_of(pipe)
    with pytest.raises(ModelError, match="no valid JSON"):
        read_model(pipe)


def test_a_pipe_with_a_writer_is_read_to_its_end() -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours), subprocess.Popen(["printf", ROWS], stdout=theirs):
        os.close(theirs)
        assert [row.prompt for row in trace_of(Path(f"/dev/fd/{ours}"))] == [100, 300]


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null", "/dev/full"])
def test_devices_have_no_end_or_no_content(place: str) -> None:
    with pytest.raises(InputError, match="is a device, not a file"):
        trace_of(Path(place))


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be read"):
            trace_of(place)


@pytest.mark.parametrize(("model", "code"), [("Qwen/Qwen3-8B", 0), ("Qwen/Qwen3-8b", 2)])
def test_an_inventory_from_a_pipe(model: str, code: int, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "llmfleet.cli.app", "plan", "/dev/stdin", "--no-write", "-q"]
    text = FLEET.replace("MODEL", model)
    done = subprocess.run(program, input=text, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert ('services[0].model: "Qwen/Qwen3-8b" is no known model' in done.stderr) == (code == 2)


def test_names_beyond_ascii_in_a_locale_without_them(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(FLEET.replace("MODEL", "Qwen/Qwen3-8B"))
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    program = [sys.executable, "-m", "llmfleet.cli.app", "plan", "--html", "plan.html", "-q"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "→" in (tmp_path / "plan.html").read_text(encoding="utf-8")
