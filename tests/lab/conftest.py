"""Fixtures of the lab. Whatever it cannot have here, its tests are skipped with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.engines import CACHE, EngineEnv, EnginesUnavailableError
from tests.lab.engines import engine_env as build_engine_env
from tests.lab.lab import Lab
from tests.lab.system import LabUnavailableError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest first, so that of two workers one has it alone."""
    items.sort(key=lambda item: item.path.name != "test_fleet.py")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The hosts, made once for the whole run."""
    CACHE.mkdir(parents=True, exist_ok=True)
    made = Lab(shared=[CACHE])
    try:
        made.__enter__()
    except LabUnavailableError as error:
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def engines(say: Callable[[str], None]) -> EngineEnv:
    """vLLM, Ray, Envoy and the models, on this machine alone."""
    try:
        return build_engine_env(say)
    except EnginesUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def engine_env(lab: Lab, engines: EngineEnv) -> EngineEnv:
    """The engines at the same paths on this machine and on the hosts."""
    engines.equip(lab.hosts.values())
    return engines


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line of progress past pytest's capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)  # noqa: T201

    return line


@pytest.fixture(autouse=True)
def _hosts_restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test finds all hosts on and plugged in."""
    yield
    if "lab" in request.fixturenames:
        request.getfixturevalue("lab").restore()
