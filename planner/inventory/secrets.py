"""Secrets that stand in the file itself: from there they would get into plan, state and nodes' files. By the name of
a variable, or because the value is one as some service gives them out. No message repeats the value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llmfleet.planner.inventory.findings import Finding
from llmfleet.planner.inventory.salvage import child
from llmfleet.planner.inventory.source import Loc

# The last word counts: HF_TOKEN_PATH says where one lies, MAX_NUM_BATCHED_TOKENS how many.
_NAME = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|SECRET|(^|_)(TOKEN|PWD|CREDENTIALS?|CONNECTION_STRING)"
    r"|(^|_)(API|ACCESS|PRIVATE|SECRET|AUTH|ACCOUNT|STORAGE|SIGNING|ENCRYPTION|MASTER)_?KEY)(_?\d{1,3}|_VALUE|_BASE64)?$"
)
_NOT_SHELL = re.compile(r"^(OLD)?PWD$")
# Switches, figures, names of files and of special tokens
_HARMLESS = re.compile(r"|[0-9.]{1,9}|true|false|yes|no|on|off|none|null|auto|~?/.*|<[^>]*>", re.IGNORECASE)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])("
    r"hf_[A-Za-z0-9]{18,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{16,}"
    r"|nvapi-[\w-]{30,}|xox[abeprs]-[\w-]{10,}|AIza[\w-]{35}|ms-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:[^\s/@]+@)"
)
_OF_ENGINE = ("VLLM_API_KEY", "LLAMA_API_KEY")
_IN_FILE = "Put it into a file on the node that only its user may read, and name that, as HF_TOKEN_PATH or "
_IN_FILE += "AWS_SHARED_CREDENTIALS_FILE do."


def secret_findings(values: Any) -> Iterator[Finding]:
    """`values`: of the whole file as read."""
    yield from _in_env(child(child(values, "runtime"), "env"), ("runtime", "env"))
    nodes = child(values, "nodes")
    for index, node in enumerate(nodes if isinstance(nodes, list) else ()):
        yield from _in_env(child(child(node, "runtime"), "env"), ("nodes", index, "runtime", "env"))
        yield from _named(child(node, "access"), ("nodes", index, "access"))
    for loc in ((), ("access",), ("download",)):
        yield from _named(child(values, loc[0]) if loc else values, loc)


def is_secret(name: str, value: str) -> bool:
    """Of an environment variable."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()
    named = _NAME.search(words) and not _NOT_SHELL.search(words) and not _HARMLESS.fullmatch(value.strip())
    return bool(named or _TOKEN.search(value))


def _in_env(env: Any, loc: Loc) -> Iterator[Finding]:
    for name, value in env.items() if isinstance(env, dict) else ():
        if isinstance(name, str) and not isinstance(value, dict | list) and is_secret(name, _text(value)):
            message = "looks like a secret, which would get into plan, state and files on nodes as it stands here."
            yield Finding((*loc, name), message, _instead(name), at_key=True)


def _named(part: Any, loc: Loc) -> Iterator[Finding]:
    """Keys that want the name of a variable which holds a secret."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if isinstance(key, str) and key.endswith("_env") and isinstance(value, str) and _TOKEN.search(value):
            hint = f"Set such a variable, and write its name here: {key}: FLEET_{key.removesuffix('_env').upper()}"
            yield Finding((*loc, key), "is a secret itself, in place of the name of a variable that holds it.", hint)


def _instead(name: str) -> str:
    if name in _OF_ENGINE:
        return "`engine_key_env: NAME` gives engines and router the key that this variable of your environment holds."
    if name.upper().startswith(("HF_", "HUGGING", "MODELSCOPE_")):
        return f"`download: {{token_env: {name}}}` takes it from your environment; engines themselves need none."
    return _IN_FILE


def _text(value: Any) -> str:
    return "" if value is None else str(value)
