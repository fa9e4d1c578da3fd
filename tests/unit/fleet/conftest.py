from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_fleet import LiveFleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LiveFleet]:
    """Three nodes with one instance each, planned and not up. Nothing of it is left behind."""
    made = LiveFleet(tmp_path)
    try:
        yield made
    finally:
        made.close()
    assert made.ours() == {}
