"""What a simulation is asked for, and the error it raises when it cannot deliver."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]


class SimulationError(Exception):
    """A simulation was asked for something impossible or could not be written; the message is one line."""


class SimulationConfig(BaseModel):
    """Size, period and faults of a simulation. The same configuration gives the same bytes.

    Parameters
    ----------
    seed
        Seed of every random choice.
    days, start
        The period: so many days (UTC) from ``start`` on.
    items, users
        Size of the catalogue and of the audience.
    events
        How many events happen, exactly. The files hold a few more lines (duplicates).
    late
        Share of events that arrive one to three days after they happened. Nothing arrives after the last day, so
        events of the last days are late by less, and those of the very last day never.
    duplicated
        Share of intact events that arrive twice, under the same id, on the same day or the next.
    out_of_order
        Share of events that are written up to fifteen minutes behind their place in the file.
    broken
        Share of events whose line is damaged, so that the event is lost.
    chunk
        Events generated at a time: bounds memory. It changes which events are drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=0)
    days: int = Field(default=30, ge=1, le=3660)
    start: date = date(2025, 3, 1)
    items: int = Field(default=5_000, ge=2, le=10_000_000)
    users: int = Field(default=10_000, ge=1, le=100_000_000)
    events: int = Field(default=300_000, ge=1, le=10_000_000_000)
    late: Share = 0.01
    duplicated: Share = 0.005
    out_of_order: Share = 0.01
    broken: Share = 0.002
    chunk: int = Field(default=50_000, ge=100)

    @model_validator(mode="after")
    def _period_is_on_the_calendar(self) -> Self:
        if not date(1971, 1, 1) <= self.start <= date(2099, 1, 1) - timedelta(days=self.days):
            raise ValueError("the period must lie between 1971-01-01 and 2099-01-01")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``.

        Raises
        ------
        SimulationError
            If a name is unknown or a value makes no sense; the message names each of them on one line.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            causes = [
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()
            ]
            raise SimulationError(f"simulation config: {'; '.join(causes)}") from None
