from __future__ import annotations

from typing import Any

import pytest

from orchestration.simulate import SimulationConfig, SimulationError


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"items": 1}, ["items", "2"]),
        ({"users": 0}, ["users"]),
        ({"events": -5}, ["events"]),
        ({"days": 0}, ["days"]),
        ({"late": 0.9}, ["late", "0.5"]),
        ({"broken": -0.1}, ["broken"]),
        ({"duplicated": float("nan")}, ["duplicated"]),
        ({"start": "soon"}, ["start"]),
        ({"start": "2098-12-20"}, ["period"]),
        ({"colour": "red"}, ["colour"]),
        ({"seed": -1, "chunk": 3}, ["seed", "chunk"]),
    ],
)
def test_nonsense_is_named_on_one_line(values: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(SimulationError) as raised:
        SimulationConfig.parse(values)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("simulation config: ")
    assert all(name in message for name in named)


def test_parse_accepts_what_a_yaml_or_environment_holds() -> None:
    config = SimulationConfig.parse({"events": "1000", "start": "2025-05-01", "late": "0.1"})
    assert (config.events, config.start.isoformat(), config.late) == (1000, "2025-05-01", 0.1)
