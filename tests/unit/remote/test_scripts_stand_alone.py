"""What is copied to nodes runs there on old Pythons, with nothing installed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

REMOTE = Path(__file__).parents[3] / "launch" / "remote"
SCRIPTS = sorted(p for p in REMOTE.glob("*.py") if p.name != "__init__.py")
# Those that run inside an engine's environment: what they may use of it, and the oldest Python it comes for.
IN_ENGINE = {
    "hold_headers.py": (set[str](), (3, 9)),
    "llamacpp_server.py": ({"xllamacpp"}, (3, 8)),
    "vllm_rank.py": ({"vllm"}, (3, 9)),
    "vllm_ray.py": ({"ray", "vllm"}, (3, 9)),
}
OLDEST = (3, 6)


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for found in ast.walk(tree):
        if isinstance(found, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in found.names}
        elif isinstance(found, ast.ImportFrom):
            names.add((found.module or ".").partition(".")[0])
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_only_the_standard_library(script: Path) -> None:
    allowed, oldest = IN_ENGINE.get(script.name, (set(), OLDEST))
    tree = ast.parse(script.read_text(), feature_version=oldest)
    names = imported(tree)
    assert names - set(sys.stdlib_module_names) <= allowed
    assert "__future__" not in names or oldest >= (3, 7), "Python 3.6 has no `annotations` there"
    assert "dataclasses" not in names or oldest >= (3, 7)


def test_there_are_scripts() -> None:
    assert {"facts.py", "probe.py", "supervise.py"} <= {p.name for p in SCRIPTS}
