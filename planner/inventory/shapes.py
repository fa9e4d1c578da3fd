"""Text that must look a certain way: names, hosts, paths. Each shape explains itself to people and to JSON Schema."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from llmfleet.planner.errors import InputError
from llmfleet.planner.weights_source import hub_source

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema


_LONGEST = 32_768


class UnreadableError(InputError, ValueError):
    """A value that is not what was expected. Also a ValueError, so that pydantic collects it with the others."""


def shown(value: object, limit: int = 60) -> str:
    """A value as an error message quotes it: short, on one line."""
    if value is None:
        return "an empty value"
    if isinstance(value, dict | list | tuple):
        return "keys and values" if isinstance(value, dict) else "a list"
    text = str(value)
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit])
    return f'"{clean}{"…" if len(text) > limit else ""}"'


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Annotates `str`. `pattern` must match the whole text; `check` returns the text to keep or raises ValueError."""

    expected: str
    pattern: str = ""
    examples: tuple[str, ...] = ()
    check: Callable[[str], str] | None = None
    also: tuple[str, ...] = ()  # what the file may hold besides text, since YAML reads 8 as a number

    def parse(self, text: str) -> str:
        if len(text) > _LONGEST:
            raise UnreadableError(f"expected {self.expected}, not {len(text):,} characters.")
        if self.pattern and not re.fullmatch(self.pattern.removeprefix("^").removesuffix("$"), text):
            raise UnreadableError(f"expected {self.expected}, not {shown(text)}.")
        return self.check(text) if self.check else text

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        if self.also:
            schema["type"] = ["string", *self.also]
        if self.pattern:
            schema["pattern"] = self.pattern
        if self.examples:
            schema["examples"] = list(self.examples)
        return schema


def check_host(text: str) -> str:
    """A DNS name or an IP address; numbers with dots must be a whole IPv4 address."""
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise UnreadableError(f"{shown(text)} is no IP address.") from None
    return text


def _checked_source(text: str) -> str:
    try:
        hub_source(text)
    except ValueError as error:
        raise UnreadableError(str(error)) from None
    return text


LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = rf"({LABEL}(\.{LABEL}){{0,30}}\.?|[0-9A-Fa-f:.]{{2,45}}(%[A-Za-z0-9._-]{{1,15}})?)"

NAME = Shape(
    "a name of lower-case letters, digits, '.' and '-', at most 63 long",
    pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$",
)
HOST_SHAPE = Shape("a host name or an IP address", rf"^{HOST}$", ("10.0.1.10", "gpu-1.example"), check_host)

Name = Annotated[str, NAME]
Host = Annotated[str, HOST_SHAPE]
Jump = Annotated[
    str,
    Shape(
        "a jump host such as ops@bastion.example:22",
        pattern=rf"^([A-Za-z0-9_][A-Za-z0-9._-]*@)?({LABEL}(\.{LABEL}){{0,30}}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?$",
        examples=("bastion.example", "ops@bastion.example:2222"),
    ),
]
User = Annotated[str, Shape("a user name", r"^[A-Za-z0-9_][A-Za-z0-9._@\\-]{0,63}\$?$", ("ops",))]
Path = Annotated[str, Shape("a path on one line", r"^[^\x00\r\n]{1,4096}$")]
NodePath = Annotated[
    str,
    Shape(
        "an absolute path on the node, or one that begins with ~/",
        pattern=r"^(/|~$|~/)[^\x00\r\n]{0,4096}$",
        examples=("/data/fleet", "~/fleet"),
    ),
]
Source = Annotated[
    str,
    Shape(
        "a path on one line, hf:ORG/NAME[@REVISION][:FILE] or modelscope:ORG/NAME[@REVISION][:FILE]",
        pattern=r"^[^\x00\r\n]{1,4096}$",
        examples=("./weights/chat", "hf:Qwen/Qwen3-32B@9216db5781bf21249d130ec9da846c4624c16137"),
        check=_checked_source,
    ),
]
Url = Annotated[
    str,
    Shape(
        "an address such as https://hf-mirror.com",
        pattern=r"^https?://[A-Za-z0-9._~:\[\]/-]{1,1024}$",
        examples=("https://hf-mirror.com",),
    ),
]
Variable = Annotated[str, Shape("the name of an environment variable", r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Line = Annotated[str, Shape("one line of text", r"^[^\x00\r\n]{0,32768}$", also=("number", "boolean"))]
Version = Annotated[
    str, Shape("a version such as 0.19.1", r"^[0-9][A-Za-z0-9.+!_-]{0,63}$", ("0.19.1",), also=("number",))
]
Interface = Annotated[
    str, Shape("a network interface such as eth0", r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,31}$", ("eth0", "bond0"))
]
Image = Annotated[
    str,
    Shape(
        "a container image such as vllm/vllm-openai:v0.33.0",
        pattern=r"^[a-z0-9][A-Za-z0-9._:@/-]{0,254}$",
        examples=("vllm/vllm-openai:v0.33.0",),
    ),
]
ModelId = Annotated[
    str,
    Shape(
        "a Hugging Face id such as BAAI/bge-m3, or a folder",
        pattern=r"^[A-Za-z0-9_./~][^\x00\r\n]{0,1023}$",
        examples=("Qwen/Qwen1.5-72B-Chat",),
    ),
]
PrecisionName = Annotated[
    str, Shape("a precision such as bf16 or q4_k_m", r"^[a-z0-9][a-z0-9_.-]{0,31}$", ("bf16", "q4_k_m"))
]
