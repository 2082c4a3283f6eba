"""A simulated shop: logs to run the platform on, with the truth behind them to measure it against."""

from __future__ import annotations

from orchestration.simulate.config import SimulationConfig, SimulationError
from orchestration.simulate.run import FileReport, SimulationReport, simulate
from orchestration.simulate.truth import interest_recovery

__all__ = [
    "FileReport",
    "SimulationConfig",
    "SimulationError",
    "SimulationReport",
    "interest_recovery",
    "simulate",
]
