"""The targets of docs/validation.md hold, and the page says what the script finds."""

from __future__ import annotations

from tests.accuracy.held_out import figures
from tests.accuracy.memory import LITERAL, section, targets
from tests.accuracy.report import PAGE
from tests.accuracy.rows import FRESH, HELD_OUT, read


def test_every_target_is_met_but_the_one_that_the_page_calls_missed() -> None:
    found = targets(list(read()))
    assert len(found) >= 12
    assert [target.text for target in found if not target.met] == [f"{LITERAL} of 85"]


def test_the_page_is_up_to_date() -> None:
    assert section().text in PAGE.read_text(encoding="utf-8")


def test_every_row_has_its_source() -> None:
    for row in (*read(), *read(HELD_OUT), *read(FRESH)):
        assert row.facts["source"].startswith(("https://", "public-file-index:")), row.id


def test_what_was_held_out_stays_exact() -> None:
    for row in (*read(HELD_OUT), *read(FRESH)):
        found = figures(row)
        if row.deciding_bytes:
            assert abs(found.get("tokens", 0)) <= 0.001, row.id
        assert abs(found.get("concurrency", 0)) <= 0.001, row.id
        assert "fits" not in found or found["fits"] is row.facts["started"], row.id
