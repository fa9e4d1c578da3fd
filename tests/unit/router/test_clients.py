"""The keys file, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import hosts_of, rag_plan

from llmfleet.launch.router.clients import AUTH_FILE, ClientKey, masked, parse_keys, read_keys
from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.validate import merged_static
from llmfleet.planner.errors import InputError, InventoryError

TEXT = """
# who may ask
team-a: sk-aaaaaaaa
batch:  sk-bbbbbbbb low 2.5/s
apps.v2: sk-c:cccccc== 30 normal
"""


def test_lines() -> None:
    assert parse_keys(TEXT, "keys") == (
        ClientKey("team-a", "sk-aaaaaaaa"),
        ClientKey("batch", "sk-bbbbbbbb", low=True, rate=2.5),
        ClientKey("apps.v2", "sk-c:cccccc==", rate=30.0),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sk-secret-1", "not of the form"),
        ("team a: sk-secret-1", "not of the form"),
        ("low/team: sk-secret-1", "not of the form"),
        ("team:", "not of the form"),
        ("team: secret", "8 to 256 printable"),
        ("team: sk-secret-é1", "8 to 256 printable"),
        ("team: " + "sk-secret-1" * 30, "8 to 256 printable"),
        ("team: sk-secret-1 high", '"high" after the key'),
        ("team: sk-secret-1 0/s", '"0/s" after the key'),
        ("team: sk-secret-1 1e9", '"1e9" after the key'),
        ("first: sk-secret-2", "names first again; first on line 1"),
        ("team: sk-secret-0", "has the key of line 1 again"),
    ],
)
def test_wrong_lines(line: str, says: str) -> None:
    """Every mistake is told at once, with its line and without a key."""
    with pytest.raises(InventoryError) as told:
        parse_keys(f"first: sk-secret-0\n{line}\nnothing\n", "keys")
    assert [(p.file, p.line) for p in told.value.problems] == [("keys", 2), ("keys", 3)]
    assert says in told.value.problems[0].message
    assert "sk-secret" not in str(told.value)


@pytest.mark.parametrize("text", ["", "\n# nobody\n"])
def test_no_key_at_all(text: str) -> None:
    with pytest.raises(InventoryError, match="holds no key"):
        parse_keys(text, "keys")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read from"):
        read_keys(tmp_path / "keys")
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_keys(tmp_path / "keys")


def test_keys_are_in_one_file_and_nowhere_else() -> None:
    plan, keys = rag_plan(), parse_keys(TEXT, "keys")
    files = router_files(plan, hosts=hosts_of(plan), folder="/r", keys=keys)
    assert [name for name, text in files.items() if any(k.key in text for k in keys)] == [AUTH_FILE]
    assert not any(k.key in repr(keys) for k in keys)
    hidden = masked(files, b"salt")
    assert not any(k.key in text for k in keys for text in [*hidden.values(), merged_static(hidden)])
    assert {name: text for name, text in hidden.items() if name != AUTH_FILE} == {
        name: text for name, text in files.items() if name != AUTH_FILE
    }


def test_marks_tell_a_changed_key_and_nothing_else() -> None:
    plan = rag_plan()

    def shown(key: str, salt: bytes) -> str:
        keys = (ClientKey("a", key), ClientKey("b", "sk-bbbbbbbb"))
        return masked(router_files(plan, hosts=hosts_of(plan), folder="/r", keys=keys), salt)[AUTH_FILE]

    assert shown("sk-aaaaaaaa", b"1") == shown("sk-aaaaaaaa", b"1")
    assert shown("sk-aaaaaaaa", b"1") != shown("sk-aaaaaaax", b"1")
    assert shown("sk-aaaaaaaa", b"1") != shown("sk-aaaaaaaa", b"2")


def test_keys_touch_no_other_file() -> None:
    """So that a new key, limit or the first key of all changes nothing about the listener."""
    plan = rag_plan()
    before = router_files(plan, hosts=hosts_of(plan), folder="/r")
    after = router_files(plan, hosts=hosts_of(plan), folder="/r", keys=parse_keys(TEXT, "keys"))
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {AUTH_FILE, "xds/ecds/limits.yaml"}
