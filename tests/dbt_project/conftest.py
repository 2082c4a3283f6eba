"""Fixtures: an empty home, and one full build that most tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from warehouse_home import Built, Warehouse
from warehouse_lakes import random_log, write_lake


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """An empty home."""
    return Warehouse(tmp_path)


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A random log of 45 days in one full build, with unit tests and data tests."""
    log = random_log(seed=7)
    warehouse = Warehouse(tmp_path_factory.mktemp("full"))
    write_lake(warehouse.home, log)
    warehouse.dbt("run")  # apart from the tests: unit tests of windows need the tables to be there
    warehouse.dbt("test")
    return Built(log, warehouse, warehouse.export())
