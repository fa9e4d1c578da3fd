"""Quantities as people write them (25Gb/s, 2s, 16k, 3.67/h), resolved to plain numbers.

A number without a unit is taken in the base unit: seconds, tokens, bits a second, money an hour.
k, M, G and T are powers of 1000, everywhere; Ki and Mi are powers of 1024.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from llmfleet.planner.inventory.shapes import Name, UnreadableError, shown

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

__all__ = ["BitsPerSecond", "FewSeconds", "Name", "PricePerHour", "Quantity", "Seconds", "Tokens"]

NUMBER = r"[0-9]{1,15}(\.[0-9]{1,15})?"


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """Annotates `int` or `float`: a number, or text of a number and one of the units."""

    noun: str
    base: str  # what a number without a unit counts
    examples: tuple[str, ...]
    factors: Mapping[str, Decimal]  # of each unit
    least: Decimal
    most: Decimal
    whole: bool = False

    @property
    def pattern(self) -> str:
        units = "|".join(re.escape(unit).replace("/", r"\/") for unit in self.factors)
        return rf"^{NUMBER} ?({units})?$"

    def parse(self, value: object) -> int | float:
        """The plain number. Raises UnreadableError, a ValueError, in words."""
        number = self._number(value)
        if number is None or not number.is_finite():
            raise self._error(f"such as {' or '.join(self.examples)}", value)
        if number < self.least:
            raise self._error(f"of at least {self._amount(self.least)}", value)
        if number > self.most:
            raise self._error(f"of at most {self._amount(self.most)}", value)
        if self.whole and number != number.to_integral_value():
            raise self._error("without a fraction", value)
        return int(number) if self.whole else float(number)

    def _error(self, wanted: str, value: object) -> UnreadableError:
        unit = f" {self.base}" if re.fullmatch(NUMBER, str(value).strip()) else ""
        return UnreadableError(f"expected {self.noun} {wanted}, not {shown(value)}{unit}.")

    def _number(self, value: object) -> Decimal | None:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        if not isinstance(value, str):
            return Decimal(value) if isinstance(value, int) else Decimal(repr(value))
        match = re.fullmatch(rf"(-?{NUMBER})\s?([A-Za-z/]*)", value.strip())
        if not match:
            return None
        unit = match[3]
        factor = Decimal(1) if not unit else self.factors.get(unit)
        return None if factor is None else Decimal(match[1]) * factor

    def _amount(self, number: Decimal) -> str:
        """In the largest unit that leaves no fraction."""
        whole = [(factor, unit) for unit, factor in self.factors.items() if number and number % factor == 0]
        factor, unit = max(whole, key=lambda each: each[0], default=(Decimal(1), f" {self.base}"))
        return f"{(number / factor).normalize():f}{unit}"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number = {
            "type": "integer" if self.whole else "number",
            "minimum": self._bound(self.least),
            "maximum": self._bound(self.most),
        }
        return {"anyOf": [number, {"type": "string", "pattern": self.pattern}], "examples": list(self.examples)}

    def _bound(self, number: Decimal) -> int | float:
        return int(number) if number == number.to_integral_value() else float(number)


def _bandwidth_units() -> dict[str, Decimal]:
    prefixes = {"T": 12, "G": 9, "M": 6, "k": 3}
    bits = {p + unit: Decimal(10) ** e for unit in ("b/s", "bit/s", "bps", "b", "") for p, e in prefixes.items()}
    return bits | {p + "B/s": 8 * Decimal(10) ** e for p, e in prefixes.items()}


DURATION = Quantity(
    "a duration",
    "seconds",
    ("2s", "60ms"),
    {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60), "m": Decimal(60), "h": Decimal(3600)},
    least=Decimal("0.00001"),
    most=Decimal(7 * 24 * 3600),
)
TOKENS = Quantity(
    "a number of tokens",
    "tokens",
    ("4000", "16k"),
    {"k": Decimal(10**3), "K": Decimal(10**3), "M": Decimal(10**6), "Ki": Decimal(1 << 10), "Mi": Decimal(1 << 20)},
    least=Decimal(0),
    most=Decimal(10**9),
    whole=True,
)
BANDWIDTH = Quantity(
    "a bandwidth", "bits a second", ("25Gb/s", "100G"), _bandwidth_units(), least=Decimal(10**6), most=Decimal(10**14)
)
PRICE = Quantity("a price", "an hour", ("3.67/h", "3.67"), {"/h": Decimal(1)}, least=Decimal(0), most=Decimal(10**6))

Seconds = Annotated[float, DURATION]
FewSeconds = Annotated[float, replace(DURATION, examples=("60ms", "0.06"), most=Decimal(10))]  # of one token
Tokens = Annotated[int, TOKENS]
BitsPerSecond = Annotated[float, BANDWIDTH]
PricePerHour = Annotated[float, PRICE]
