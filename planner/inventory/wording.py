"""pydantic's errors in the words of the file: what was expected, what stands there, what is spelt nearly so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from llmfleet.planner.inventory.findings import Finding, nearest
from llmfleet.planner.inventory.shapes import shown
from llmfleet.planner.inventory.source import Loc


def finding(error: ErrorDetails, root: type[BaseModel]) -> Finding:
    """The finding for one error of validating `root`."""
    loc = tuple(part for part in error["loc"] if part != "[key]")
    at_key = len(loc) < len(error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown_key(loc, _model_at(root, loc[:-1]))
    if error["type"] == "missing":
        return _missing(loc, _model_at(root, loc[:-1]))
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return Finding(loc, _expected_keys(error["input"], _model_at(root, loc)))
    word = _WORDS.get(error["type"])
    message = word(error.get("ctx", {}), error["input"]) if word else f"{error['msg']}, not {shown(error['input'])}."
    hint = _literal_hint(error) if error["type"] == "literal_error" else ""
    return Finding(loc, message, hint, at_key)


def _model_at(root: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    model: type[BaseModel] | None = root
    for part in loc:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        model = _model_within(field.annotation) if field else None
    return model


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_within, get_args(annotation))), None)


def _unknown_key(loc: Loc, model: type[BaseModel] | None) -> Finding:
    key = str(loc[-1])
    fields = model.model_fields if model else {}
    hint = _other_place(key, model) or nearest(key, fields) or f"Keys here: {', '.join(fields)}."
    return Finding(loc, "unknown key.", hint, at_key=True)


def _other_place(key: str, model: type[BaseModel] | None) -> str:
    """Where one level further down the key has its place, if anywhere."""
    for name, field in model.model_fields.items() if model else ():
        below = _model_within(field.annotation)
        if below and key in below.model_fields:
            return f"It belongs under {name}."
    return ""


def _missing(loc: Loc, model: type[BaseModel] | None) -> Finding:
    field = model.model_fields.get(str(loc[-1])) if model else None
    return Finding(loc, "this key is missing.", (field and field.description) or "")


def _expected_keys(value: object, model: type[BaseModel] | None) -> str:
    fields = model.model_fields if model else {}
    such = (
        f" such as {', '.join(sorted(fields, key=lambda name: not fields[name].is_required())[:3])}" if fields else ""
    )
    return f"expected keys{such} with their values, not {shown(value)}."


def _literal_hint(error: ErrorDetails) -> str:
    return nearest(str(error["input"]), _allowed(error.get("ctx", {})))


def _literal(ctx: Mapping[str, Any], value: object) -> str:
    *others, last = _allowed(ctx)
    return f"expected {', '.join(others)}{' or ' if others else ''}{last}, not {shown(value)}."


def _allowed(ctx: Mapping[str, Any]) -> list[str]:
    """Each spelling once: a version may be written as a number and as text."""
    words = str(ctx.get("expected", "")).replace(" or ", ", ").replace("'", "")
    return list(dict.fromkeys(words.split(", ")))


def _text(_: Mapping[str, Any], value: object) -> str:
    return f"expected text, not {shown(value)}." + (' For an empty value write "".' if value is None else "")


def _list(_: Mapping[str, Any], value: object) -> str:
    return f"expected a list, not {shown(value)}." + (f" Write [{value}]." if _is_short(value) else "")


def _is_short(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 40


def _bound(words: str, key: str) -> Callable[[Mapping[str, Any], object], str]:
    return lambda ctx, value: f"expected a number {words} {ctx[key]:.10g}, not {shown(value)}."


def _kind(words: str) -> Callable[[Mapping[str, Any], object], str]:
    return lambda _, value: f"expected {words}, not {shown(value)}."


_WHOLE = _kind("a whole number")
_NUMBER = _kind("a number")
_TRUTH = _kind("true or false")

_WORDS: Mapping[str, Callable[[Mapping[str, Any], object], str]] = {
    "value_error": lambda ctx, _: str(ctx["error"]),
    "literal_error": _literal,
    "string_type": _text,
    "tuple_type": _list,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "greater_than": _bound("above", "gt"),
    "greater_than_equal": _bound("of at least", "ge"),
    "less_than": _bound("below", "lt"),
    "less_than_equal": _bound("of at most", "le"),
    "too_short": lambda _, __: "expected at least one item; the list is empty.",
}
