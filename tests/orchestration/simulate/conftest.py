from __future__ import annotations

import pytest
from simulated import FAULTLESS, SMALL, Simulated, run

from orchestration.simulate.events import World
from orchestration.simulate.run import build_world


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Logs with every fault at its default rate."""
    return run(SMALL, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Logs without any fault."""
    return run(SMALL.model_copy(update=FAULTLESS), tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="session")
def world() -> World:
    return build_world(SMALL)
