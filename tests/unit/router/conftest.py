from __future__ import annotations

from collections.abc import Iterator

import pytest
from running import RunningRouter


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    router = RunningRouter(tmp_path_factory.mktemp("router"))
    try:
        router.wait()
        yield router
    finally:
        router.close()


@pytest.fixture
def router(running: RunningRouter) -> RunningRouter:
    """All engines healthy, none draining."""
    running.calm()
    return running
