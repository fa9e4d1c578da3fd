"""Who may ask: the keys file, and what the router makes of it.

A line of the file is `NAME: KEY [low] [REQUESTS/s]`; empty lines and lines that start with # mean nothing. Keys are in
one file of the router, xds/ecds/auth.yaml, which is readable for its user only, and nowhere else.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from llmfleet.launch.named_files import read_named
from llmfleet.launch.router.tls import without_key
from llmfleet.launch.router.xds import Json, set_header, typed
from llmfleet.planner.errors import InputError, InventoryError, Problem

UNLIMITED = 1e9
AUTH, LIMITS, CLIENT = "auth", "limits", "x-llmfleet-client"
AUTH_FILE = f"xds/ecds/{AUTH}.yaml"
ENGINES = "engines"
ENGINES_FILE = f"xds/ecds/{ENGINES}.yaml"
CREDENTIALS = ("authorization", "x-api-key")  # where clients of OpenAI's and of Anthropic's API put their key
KEY_AUTH = "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth"
RATE_LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
NOTHING = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
NAME, KEY, RATE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", r"[!-~]{8,256}", r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(?:/s)?"
SHAPE = "NAME: KEY [low] [REQUESTS/s]"


@dataclass(frozen=True, slots=True)
class ClientKey:
    name: str
    key: str = field(repr=False)
    low: bool = False  # all its requests are of low priority
    rate: float | None = None  # requests a second; None: no limit

    @property
    def client(self) -> str:
        """What the router itself calls the client, after it saw the key. The classifier reads the priority off it."""
        return f"low/{self.name}" if self.low else self.name


def read_keys(path: Path) -> tuple[ClientKey, ...]:
    """Raises InputError where the file cannot be read, InventoryError with every wrong line. Neither tells a key."""
    try:
        text = read_named(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(
            f"the clients' keys cannot be read from {path}: {why}",
            hint=f"`router: {{keys_file: …}}` names a file on this machine with lines {SHAPE}",
        ) from None
    return parse_keys(text, str(path))


def parse_keys(text: str, file: str) -> tuple[ClientKey, ...]:
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1)]
    found = [(n, _parsed(line)) for n, line in lines if line and not line.startswith("#")]
    problems = [Problem(file, n, 1, "", each) for n, each in found if isinstance(each, str)]
    keys = [(n, each) for n, each in found if isinstance(each, ClientKey)]
    problems += [Problem(file, n, 1, "", message) for n, message in _repeated(keys)]
    if not found:
        problems = [Problem(file, 0, 0, "", f"holds no key, so that nobody could ask. Lines are {SHAPE}")]
    if problems:
        raise InventoryError(sorted(problems, key=lambda p: p.line))
    return tuple(key for _, key in keys)


def _parsed(line: str) -> ClientKey | str:
    """The key, or what is wrong with its line."""
    name, colon, rest = line.partition(":")
    words = rest.split()
    if not colon or not re.fullmatch(NAME, name.strip()) or not words:
        return f"is not of the form {SHAPE}; a name has letters, digits and . _ -"
    if not re.fullmatch(KEY, words[0]):
        return "has a key that is not 8 to 256 printable ASCII characters without spaces."
    low, rate = False, None
    for word in words[1:]:
        if word in ("low", "normal"):
            low = word == "low"
        elif (number := re.fullmatch(RATE, word)) and float(number[1]) > 0:
            rate = float(number[1])
        else:
            return f'has "{word[:20]}" after the key, which is neither low nor a number of requests a second.'
    return ClientKey(name.strip(), words[0], low, rate)


def _repeated(keys: Sequence[tuple[int, ClientKey]]) -> Iterator[tuple[int, str]]:
    names: dict[str, int] = {}
    secrets: dict[str, int] = {}
    for n, each in keys:
        if names.setdefault(each.name, n) != n:
            yield n, f"names {each.name} again; first on line {names[each.name]}. A second key takes a second name."
        if secrets.setdefault(each.key, n) != n:
            yield n, f"has the key of line {secrets[each.key]} again."


def auth_filter(keys: Sequence[ClientKey] | None) -> Json:
    """Without keys anybody may ask. Engines never see what clients identify themselves with."""
    if keys is None:
        dropped = [{"remove": header} for header in CREDENTIALS]
        return _resource(AUTH, typed(NOTHING, mutations={"request_mutations": dropped}))
    return _resource(
        AUTH,
        typed(
            KEY_AUTH,
            credentials=[{"key": each.key, "client": each.client} for each in keys],
            key_sources=[{"header": header} for header in CREDENTIALS],
            forwarding={"header": CLIENT, "hide_credentials": True},
        ),
    )


def engine_filter(key: str) -> Json:
    """What engines want to see of us, in place of what clients identified themselves with."""
    shown = {"append": set_header("authorization", f"Bearer {key}")}
    return _resource(ENGINES, typed(NOTHING, mutations={"request_mutations": [shown]}))


def limit_filter(keys: Sequence[ClientKey] | None) -> Json:
    limited = [(each, each.rate) for each in keys or () if each.rate is not None]
    if not limited:
        return _resource(LIMITS, typed(NOTHING, mutations={}))
    always = {"default_value": {"numerator": 100}}
    return _resource(
        LIMITS,
        typed(
            RATE_LIMIT,
            stat_prefix="clients",
            filter_enabled=always,
            filter_enforced=always,
            token_bucket=_bucket(UNLIMITED),  # of all others
            always_consume_default_token_bucket=False,
            rate_limits=[{"actions": [{"request_headers": {"header_name": CLIENT, "descriptor_key": "client"}}]}],
            descriptors=[
                {"entries": [{"key": "client", "value": each.client}], "token_bucket": _bucket(rate)}
                for each, rate in limited
            ],
        ),
    )


def _bucket(rate: float) -> Json:
    """Filled evenly; what one second gives may be used at once."""
    tokens = 1 if rate < 10 else ceil(rate)
    return {"max_tokens": max(1, ceil(rate)), "tokens_per_fill": tokens, "fill_interval": f"{tokens / rate:.6f}s"}


def _resource(name: str, config: Json) -> Json:
    return typed("envoy.config.core.v3.TypedExtensionConfig", name=name, typed_config=config)


def masked(files: Mapping[str, str], salt: bytes) -> Mapping[str, str]:
    """The router's files with a mark for each key. Under one salt equal keys have equal marks, which tell no more."""

    def mark(found: re.Match[str]) -> str:
        return f"{found[1]}'*** {hmac.digest(salt, found[2].encode(), 'sha256').hex()[:8]}'"

    lines = {AUTH_FILE: r"(?m)^([ -]*key: )(.+)$", ENGINES_FILE: r"(?m)^([ -]*value: )(.+)$"}
    without = without_key(files)
    return {n: re.sub(lines[n], mark, text) if n in lines else text for n, text in without.items()}
