"""The rules of the layout, kept by a machine: which way imports run, how long files get, what goes into the wheel.

Each test lists every file that breaks its rule.
"""

from __future__ import annotations

import ast
import statistics
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {"planner": {"planner"}, "launch": {"launch", "planner"}, "cli": {"cli", "launch", "planner"}}
LIBRARIES_WITH_EFFECTS = {"paramiko", "fabric", "invoke", "rich", "typer", "httpx"}
EFFECTS = LIBRARIES_WITH_EFFECTS | {"subprocess", "socket", "asyncio", "urllib", "http"}
ENGINES = {
    "launch/remote/llamacpp_server.py": {"xllamacpp"},
    "launch/remote/vllm_rank.py": {"vllm"},
    "launch/remote/vllm_ray.py": {"vllm", "ray"},
}
LONGEST_FILE, MEDIAN_FILE, LONGEST_FUNCTION = 400, 150, 60

FILES = {str(p.relative_to(ROOT)): p.read_text() for layer in LAYERS for p in sorted((ROOT / layer).rglob("*.py"))}
TREES = {name: ast.parse(text, name) for name, text in FILES.items()}


def imported(name: str) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it. A relative one starts with a dot."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> str:
    return name.split("/")[0]


def test_every_layer_is_read() -> None:
    assert {layer_of(name) for name in FILES} == set(LAYERS)
    assert "llmfleet.planner.errors.FleetError" in set(imported("cli/app.py"))


def test_imports_run_one_way() -> None:
    wrong = [
        f"{name} imports {module}"
        for name in FILES
        for module in imported(name)
        if module.startswith("llmfleet.") and module.split(".")[1] in LAYERS.keys() - LAYERS[layer_of(name)]
    ]
    assert wrong == []


def test_our_modules_are_imported_by_their_full_name() -> None:
    wrong = [f"{name} imports {m}" for name in FILES for m in imported(name) if m.split(".")[0] in {"", *LAYERS}]
    assert wrong == []


def test_planner_has_no_effects() -> None:
    planner = [name for name in FILES if layer_of(name) == "planner"]
    assert [f"{name} imports {m}" for name in planner for m in imported(name) if m.split(".")[0] in EFFECTS] == []


def test_scripts_for_nodes_need_nothing_but_python_and_the_engine_they_start() -> None:
    scripts = [name for name in FILES if name.startswith("launch/remote/")]
    tops = {(name, module.split(".")[0]) for name in scripts for module in imported(name)}
    assert tops
    assert sorted(f"{n} imports {m}" for n, m in tops if m not in sys.stdlib_module_names | ENGINES.get(n, set())) == []


def test_files_are_short() -> None:
    lengths = {name: len(text.splitlines()) for name, text in FILES.items() if text}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_FILE


def test_functions_are_short() -> None:
    long = [
        f"{name}:{node.lineno} {node.name} has {length} lines"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_module_is_a_drawer_for_everything() -> None:
    assert [name for name in FILES if {"util", "utils", "helpers"} & set(name.removesuffix(".py").split("/"))] == []


def test_only_scripts_for_nodes_print() -> None:
    """The command line has one way out, cli/output.py and Typer's echo; launch and planner have events and values."""
    printing = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert [place for place in printing if not place.startswith("launch/remote/")] == []


def test_wheel_holds_one_package_and_takes_no_name_of_others() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["src/llmfleet"]}
    assert config["project"]["scripts"] == {"llmfleet": "llmfleet.cli.start:main"}
    package = ROOT / "src" / "llmfleet"
    assert {p.name: p.resolve() for p in package.iterdir() if p.is_symlink()} == {name: ROOT / name for name in LAYERS}
