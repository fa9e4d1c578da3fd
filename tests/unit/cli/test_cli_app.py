"""The command line as a whole: its table of commands, help, errors and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer
from cli_fleet import Run

from llmfleet.cli import app as app_module
from llmfleet.cli import start
from llmfleet.cli.app import COMMANDS, load
from llmfleet.planner.errors import (
    AuthError,
    CommandError,
    FleetError,
    InputError,
    InventoryError,
    LockedError,
    NodesError,
    Problem,
    StateError,
    TransportError,
)

REFERENCE = Path(__file__).resolve().parents[3] / "inventory.example.yaml"
PROBLEMS = (
    Problem("inventory.yaml", 14, 9, "nodes[2].gpus", '"8 x A880-80G" is no known GPU.', "Nearest: A800-80G."),
    Problem("inventory.yaml", 20, 3, "services[0].slo", "is not a time."),
)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `llmfleet up` raise."""

    def install(error: BaseException) -> None:
        def up(as_json: bool = typer.Option(False, "--json")) -> None:
            raise error

        monkeypatch.setattr(app_module, "import_module", lambda _: SimpleNamespace(up=up))

    return install


@pytest.mark.parametrize("name", [c.name for c in COMMANDS])
def test_table_says_what_the_command_itself_says(name: str) -> None:
    listed = next(c.help for c in COMMANDS if c.name == name)
    assert (load(name).help or "").startswith(listed)


@pytest.mark.parametrize("name", [c.name for c in COMMANDS])
def test_every_command_takes_json_and_shows_an_example(name: str, run: Run) -> None:
    command = load(name)
    for one in getattr(command, "commands", {name: command}).values():
        assert {"--json"} <= {option for param in one.params for option in param.opts}, one.name
        assert f"llmfleet {'' if one is command else name + ' '}{one.name}" in (one.help or "")
    ran = run(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: llmfleet {name} ")


def test_help_lists_the_commands_and_exit_codes(run: Run) -> None:
    ran = run("--help")
    assert ran.code == 0
    assert all(f"  {c.name}" in ran.out and c.help in ran.out for c in COMMANDS)
    assert "4  locked by another run" in ran.out


def test_help_and_version_import_no_heavy_module() -> None:
    heavy = "'rich', 'pydantic', 'paramiko', 'fabric', 'numpy', 'highspy', 'httpx', 'yaml'"
    code = (
        f"import sys; from llmfleet.cli.app import main; assert main(['--help']) == main(['--version']) == 0\n"
        f"print([m for m in ({heavy}) if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_an_estimate_in_json_imports_neither_inventories_nor_tables() -> None:
    code = (
        "import sys; from llmfleet.cli.app import main\n"
        "assert main(['estimate', '--model', 'Qwen/Qwen3-8B', '--gpu', 'H100', '--json']) == 0\n"
        "print([m for m in ('rich', 'pydantic', 'numpy', 'highspy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_version(run: Run) -> None:
    assert run("--version").out == "llmfleet 0.1.0\n"


@pytest.mark.parametrize("args", [("stauts",), ("--nonsense",), ("drain",), ("logs", "x", "--lines", "many")])
def test_wrong_usage_exits_2(args: tuple[str, ...], run: Run) -> None:
    ran = run(*args)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.endswith(" --help\n")


def test_wrong_command_names_the_nearest(run: Run) -> None:
    assert "Did you mean 'status'" in run("stauts").err


def test_wrong_usage_with_json_is_a_document(run: Run) -> None:
    ran = run("drain", "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["error"]["exit_code"] == 2
    assert "NODE" in json.loads(ran.out)["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FleetError("m"), 1),
        (StateError("m"), 1),
        (InputError("m"), 2),
        (InventoryError(PROBLEMS), 2),
        (TransportError("m"), 3),
        (LockedError("m"), 4),
        (NodesError("connect", [CommandError("m", node="a"), AuthError("m", node="b")]), 3),
        (RuntimeError("m"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error: BaseException, code: int, run: Run, failing: Callable[[BaseException], None]) -> None:
    failing(error)
    ran = run("up")
    assert ran.code == code
    assert ran.out == ""
    assert "Traceback" not in ran.err


def test_error_says_what_where_and_next(run: Run, failing: Callable[[BaseException], None]) -> None:
    failing(CommandError("disk is full", node="a800-0", hint="Free some."))
    assert run("up").err == "error: a800-0: disk is full\n  → Free some.\n"


def test_inventory_errors_are_all_told(run: Run, failing: Callable[[BaseException], None]) -> None:
    failing(InventoryError(PROBLEMS))
    assert run("up").err.splitlines() == [
        "error: 2 problems in inventory.yaml",
        'inventory.yaml:14:9  nodes[2].gpus: "8 x A880-80G" is no known GPU. Nearest: A800-80G.',
        "inventory.yaml:20:3  services[0].slo: is not a time.",
    ]


def test_errors_with_json_are_one_document(run: Run, failing: Callable[[BaseException], None]) -> None:
    failing(InventoryError(PROBLEMS))
    body = json.loads(run("up", "--json").out)["error"]
    assert body["exit_code"] == 2
    assert body["problems"][0] == {
        "file": "inventory.yaml",
        "line": 14,
        "column": 9,
        "path": "nodes[2].gpus",
        "message": '"8 x A880-80G" is no known GPU.',
        "hint": "Nearest: A800-80G.",
    }
    failing(NodesError("connect", [AuthError("refused", node="b", hint="Add the key.")]))
    body = json.loads(run("up", "--json").out)["error"]
    assert body["exit_code"] == 3
    assert body["problems"] == [
        {"node": "b", "message": "refused", "hint": "Add the key.", "exit_code": 3, "problems": []}
    ]


def test_crash_shows_a_traceback_only_with_debug(run: Run, failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("oh"))
    quiet, loud = run("up"), run("up", "--debug")
    assert quiet.err.startswith("error: internal error: ZeroDivisionError: oh\n  → ")
    assert "--debug" in quiet.err
    assert "Traceback (most recent call last)" in loud.err
    assert loud.code == quiet.code == 1
    assert json.loads(run("up", "--json").out)["error"]["message"] == "internal error: ZeroDivisionError: oh"


def test_reader_that_goes_away_is_no_error() -> None:
    shell = f"{sys.executable} -m llmfleet.cli.app plan {REFERENCE} --no-write | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.returncode == 141


def test_terminal_without_our_characters_sees_question_marks() -> None:
    program = [sys.executable, "-m", "llmfleet.cli.app", "plan", str(REFERENCE), "--no-write"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 0
    assert " GPUs ? " in done.stdout.splitlines()[0]


def numbers() -> list[tuple[str, ...]]:
    """Each option of each command that takes a number with a point, after what else the command needs."""
    found = []
    for command in (load(c.name) for c in COMMANDS):
        needed = ["x" for p in command.params if p.required]
        options = [max(p.opts, key=len) for p in command.params if p.type.name.startswith("float")]
        found += [(command.name, *needed, option) for option in options]
    return found


@pytest.mark.parametrize("words", numbers(), ids=" ".join)
def test_not_a_number_is_none(words: tuple[str, ...], run: Run) -> None:
    ran = run(*words, "nan")
    assert (ran.code, ran.err) == (2, f"error: {words[-1]} nan: a number is needed\n")


def test_some_options_take_numbers() -> None:
    assert len(numbers()) > 20


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("init", "h", "--cluster", "My Fleet"), "--cluster: expected a name of lower-case letters"),
        (("init", "h", "--sudo-password-env", "PW"), "--sudo-password-env has sudo's password, and there is no --sudo"),
        (("init", "h", "--sudo", "--sudo-password-env", "a b"), "--sudo-password-env: expected the name of an env"),
        (("down", "--forget", "h20-1", "--dry-run"), "--forget only changes the record"),
        (("down", "--forget", "h20-1", "--keep-weights"), "--forget only changes the record"),
        (("watch", "--print-unit", "--json"), "a unit is no JSON"),
        (("bench", "chat", "--url", "http://h:1", "--model", "m"), "--url measures that address alone, and chat is of"),
        (("bench", "--router", "--url", "http://h:1", "--model", "m"), "and --router is of the plan"),
        (("upgrade", "vllm", "0.33.0", "--python", "/p", "--image", "i"), "--python and --image: an engine lies in"),
        (("upgrade", "vllm", "0.33.0", "--llama-server", "/p"), "--llama-server is llama.cpp's, not vllm's"),
        (("plan", str(REFERENCE), "--what-if", "+1 h20", "--verify"), "not of --what-if"),
        (("plan", str(REFERENCE), "--what-if", "+1 h20", "--html", "x"), "--html writes and --what-if does not"),
        (("plan", str(REFERENCE), "--out", "x", "--no-write"), "--out writes and --no-write does not"),
    ],
)
def test_options_that_cannot_be(args: tuple[str, ...], said: str, run: Run) -> None:
    ran = run(*args)
    assert ran.code == 2
    assert said in ran.err


def test_an_interrupt_during_the_imports_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Importing(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "llmfleet.cli.app", Importing("llmfleet.cli.app"))
    assert start.main() == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_it_begins_with_next_to_no_import() -> None:
    """Of what Ctrl-C may interrupt outside of `main`."""
    program = "import sys; before = set(sys.modules); import llmfleet.cli.start; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"llmfleet", "llmfleet.cli", "llmfleet.cli.start", "__future__"}
