"""What all parts of an inventory have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Strict(BaseModel):
    """Unknown keys are errors. A key without a value stands for its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or None not in data.values():
            return data
        return {key: cls._default(key) if value is None else value for key, value in data.items()}

    @classmethod
    def _default(cls, key: str) -> Any:
        field = cls.model_fields.get(key)
        return None if field is None or field.is_required() else field.get_default(call_default_factory=True)
