"""Quantities with units."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.units import (
    BANDWIDTH,
    DURATION,
    PRICE,
    TOKENS,
    BitsPerSecond,
    PricePerHour,
    Quantity,
    Seconds,
    Tokens,
)


@pytest.mark.parametrize(
    ("quantity", "written", "number"),
    [
        (DURATION, "2s", 2.0),
        (DURATION, "60ms", 0.06),
        (DURATION, "1m", 60.0),
        (DURATION, "1.5 min", 90.0),
        (DURATION, "1h", 3600.0),
        (DURATION, "0.06", 0.06),
        (DURATION, 3, 3.0),
        (DURATION, 1e-05, 1e-05),
        (TOKENS, "16k", 16_000),
        (TOKENS, "16Ki", 16_384),
        (TOKENS, "1.5k", 1_500),
        (TOKENS, "16.1k", 16_100),
        (TOKENS, "1M", 1_000_000),
        (TOKENS, "1Mi", 1 << 20),
        (TOKENS, 0, 0),
        (TOKENS, 300.0, 300),
        (BANDWIDTH, "25Gb/s", 25e9),
        (BANDWIDTH, "100G", 100e9),
        (BANDWIDTH, "25Gbps", 25e9),
        (BANDWIDTH, "1 Gbit/s", 1e9),
        (BANDWIDTH, "3GB/s", 24e9),
        (BANDWIDTH, 1e10, 1e10),
        (PRICE, "3.67/h", 3.67),
        (PRICE, "0", 0.0),
    ],
)
def test_reads(quantity: Quantity, written: object, number: float) -> None:
    value = quantity.parse(written)
    assert value == number
    assert type(value) is (int if quantity.whole else float)


@pytest.mark.parametrize(
    ("quantity", "written", "message"),
    [
        (DURATION, "soon", 'expected a duration such as 2s or 60ms, not "soon".'),
        (DURATION, "2 seconds", 'expected a duration such as 2s or 60ms, not "2 seconds".'),
        (DURATION, "2S", 'expected a duration such as 2s or 60ms, not "2S".'),
        (DURATION, "-1s", 'expected a duration of at least 0.00001 seconds, not "-1s".'),
        (DURATION, "0", 'expected a duration of at least 0.00001 seconds, not "0" seconds.'),
        (DURATION, "200h", 'expected a duration of at most 168h, not "200h".'),
        (DURATION, True, 'expected a duration such as 2s or 60ms, not "True".'),
        (DURATION, None, "expected a duration such as 2s or 60ms, not an empty value."),
        (DURATION, [1], "expected a duration such as 2s or 60ms, not a list."),
        (DURATION, float("nan"), 'expected a duration such as 2s or 60ms, not "nan".'),
        (TOKENS, "1.5", 'expected a number of tokens without a fraction, not "1.5" tokens.'),
        (TOKENS, "16g", 'expected a number of tokens such as 4000 or 16k, not "16g".'),
        (TOKENS, "9" * 500, "expected a number of tokens such as 4000 or 16k, not"),
        (TOKENS, "2000M", 'expected a number of tokens of at most 1000M, not "2000M".'),
        (BANDWIDTH, "25", 'expected a bandwidth of at least 1Mb/s, not "25" bits a second.'),
        (BANDWIDTH, "25Gb/", 'expected a bandwidth such as 25Gb/s or 100G, not "25Gb/".'),
        (PRICE, "-3", 'expected a price of at least 0 an hour, not "-3".'),
    ],
)
def test_refuses(quantity: Quantity, written: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        quantity.parse(written)


@given(st.text() | st.floats() | st.integers() | st.none() | st.binary())
def test_only_input_errors(value: object) -> None:
    for quantity in (DURATION, TOKENS, BANDWIDTH, PRICE):
        try:
            number = quantity.parse(value)
        except InputError:
            continue
        assert float(quantity.least) <= number <= float(quantity.most)


class Model(BaseModel):
    seconds: Seconds
    tokens: Tokens
    nic: BitsPerSecond
    price: PricePerHour


def test_types_resolve_to_plain_numbers() -> None:
    model = Model.model_validate({"seconds": "60ms", "tokens": "16k", "nic": "25Gb/s", "price": "3.67/h"})
    assert model.model_dump() == {"seconds": 0.06, "tokens": 16_000, "nic": 25e9, "price": 3.67}
    assert Model.model_validate_json(model.model_dump_json()) == model


def test_types_refuse_in_words() -> None:
    with pytest.raises(ValidationError, match="expected a duration such as 2s or 60ms"):
        TypeAdapter(Seconds).validate_python("soon")


def test_schema_shows_numbers_text_and_examples() -> None:
    schema: dict[str, Any] = TypeAdapter(Tokens).json_schema()
    number, text = schema["anyOf"]
    assert number == {"type": "integer", "minimum": 0, "maximum": 10**9}
    assert schema["examples"] == ["4000", "16k"]
    assert all(re.search(text["pattern"], example) for example in schema["examples"])
    assert not re.search(text["pattern"], "16g")


@pytest.mark.parametrize("quantity", [DURATION, TOKENS, BANDWIDTH, PRICE])
def test_pattern_and_parser_agree_on_units(quantity: Quantity) -> None:
    for unit in quantity.factors:
        assert re.search(quantity.pattern, f"2{unit}")
        least = quantity.least / quantity.factors[unit]
        assert quantity.parse(f"{max(2, int(least) + 1)}{unit}") > 0


def test_importing_units_and_ranges_is_light() -> None:
    code = (
        "import sys, json, llmfleet.planner.inventory.units, llmfleet.planner.inventory.ranges;"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules} & {'pydantic', 'yaml', 'numpy'})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
