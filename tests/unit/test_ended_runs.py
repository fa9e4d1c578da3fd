"""A run of tests that is told to end takes down what its fixtures started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live
TESTS = """
import sys, time
import pytest

@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    yield
    (tmp_path_factory.getbasetemp() / "down").touch()

def test_long(fleet):
    print("begun", file=sys.__stdout__, flush=True)
    time.sleep(300)
"""


def test_sigterm_runs_the_fixtures_to_their_end(tmp_path: Path) -> None:
    (tmp_path / "test_long.py").write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-s", "-p", "tests.unit.conftest", "-p", "no:cacheprovider", "--rootdir"]
    argv += [str(tmp_path), "-c", "/dev/null", "--basetemp", str(tmp_path / "base"), str(tmp_path / "test_long.py")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        seen = next((line for line in run.stdout if "begun" in line), "")
        assert seen, run.stdout.read()
        run.terminate()
        said, _ = run.communicate(timeout=60)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, said
    assert (tmp_path / "base" / "down").exists()
