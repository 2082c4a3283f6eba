"""What the checks let pass: ``thresholds.yaml`` beside this module, and what a file of the user says differently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestration.quality.report import QualityError
from orchestration.quality.rules import Level

DEFAULTS = Path(__file__).with_name("thresholds.yaml")


class ThresholdError(QualityError):
    """A file of thresholds cannot be used; the message is one line that names the file and the key."""


def _off(value: object) -> object:
    """Undo YAML, in which a bare ``off`` is a boolean."""
    return "off" if value is False else value


_Level = Annotated[Level, BeforeValidator(_off)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limit(_Strict):
    """A rule that has nothing but a level."""

    level: _Level


class Share(Limit):
    """A share that may not be exceeded."""

    max: float = Field(ge=0, le=1)


class Band(Limit):
    """How far a count may be from the usual one.

    Parameters
    ----------
    at_least, at_most
        As factors of the usual count: within them nothing is told.
    deviations
        Robust standard deviations of the window's days, and of a random count: within them nothing is told either.
    """

    at_least: float = Field(gt=0, le=1)
    at_most: float = Field(ge=1)
    deviations: float = Field(gt=0)


class Nulls(Limit):
    """How much the share of nulls of a column may rise, beyond what a random count of nulls does."""

    max: float = Field(ge=0, le=1)
    deviations: float = Field(gt=0)


class Absent(Limit):
    """A type that usually has this many events a day may not have none."""

    expected: float = Field(gt=0)


class Drift(Limit):
    """How far a distribution may be from that of the window.

    Parameters
    ----------
    by
        Population stability index, or Jensen-Shannon distance.
    max
        Within it nothing is told.
    deviations
        Robust standard deviations of the distances of the window's days from the window: within them neither.
    """

    by: Literal["psi", "js"]
    max: float = Field(gt=0)
    deviations: float = Field(gt=0)


class Window(_Strict):
    """The days that a day is held against.

    Parameters
    ----------
    days
        How far back they reach.
    min_days
        How many of them must be there.
    min_rows
        Distributions of fewer rows are not compared.
    warm_up
        Days at the start of the whole history that are no reference.
    """

    days: int = Field(ge=1)
    min_days: int = Field(ge=1)
    min_rows: int = Field(ge=1)
    warm_up: int = Field(default=0, ge=0)


class EventDrift(_Strict):
    """Distributions of the events of a day."""

    type: Drift
    hour: Drift
    value: Drift
    position: Drift
    popularity: Drift
    per_user: Drift
    per_session: Drift
    days_late: Drift


class EventThresholds(_Strict):
    """A lake day against its trailing days."""

    window: Window
    rows: Band
    rows_by_type: Band
    users: Band
    items: Band
    nulls: Nulls
    new_types: Limit
    absent_types: Absent
    drift: EventDrift


class ItemDrift(_Strict):
    """Distributions of the catalogue."""

    price: Drift
    category: Drift


class ItemThresholds(_Strict):
    """The catalogue against the version before it."""

    window: Window
    rows: Band
    items: Band
    nulls: Nulls
    drift: ItemDrift


class FeatureThresholds(_Strict):
    """The newest part of a feature mart against its trailing parts."""

    window: Window
    rows: Band
    nulls: Nulls
    drift: Drift
    without_drift: tuple[str, ...]


class ReferenceThresholds(_Strict):
    """What points to nothing.

    Parameters
    ----------
    orphan_events, mostly_orphans
        Share of events whose item the catalogue does not have, at two levels.
    unseen_items
        Share of the catalogue that no event names.
    feature_entities
        Features of a user or item that no dimension has.
    """

    orphan_events: Share
    mostly_orphans: Share
    unseen_items: Share
    feature_entities: Limit


class Bounds(_Strict):
    """The last values that pass without a warning and without an error; None for any."""

    warning: float | None
    error: float | None


class SemanticIdThresholds(_Strict):
    """A version of semantic IDs.

    Parameters
    ----------
    distinct
        Share of items with different codes before de-duplication, at least.
    largest_collision
        Share of items in the fullest tuple, at most.
    dead_codes
        Share of a level's codes that no item has, at most.
    reconstruction_error
        Share of the vectors' variance that decoding misses, at most.
    overlap
        Neighbours in common by codes and by vectors, as a multiple of chance, at least.
    purity
        Purity of prefixes in categories above that of shuffled ones, at least.
    churn
        Share of kept items whose ID changed, at most.
    """

    distinct: Bounds
    largest_collision: Bounds
    dead_codes: Bounds
    reconstruction_error: Bounds
    overlap: Bounds
    purity: Bounds
    churn: Bounds


class Thresholds(_Strict):
    """All of them."""

    events: EventThresholds
    items: ItemThresholds
    features: FeatureThresholds
    references: ReferenceThresholds
    semantic_ids: SemanticIdThresholds
    contract: dict[str, dict[str, _Level]]


def load_thresholds(path: Path | None = None) -> Thresholds:
    """Return the thresholds, with what the file at ``path`` says differently.

    Raises
    ------
    ThresholdError
        If the file cannot be read, has a key that nothing knows, or a value that makes no sense.
    """
    values = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))
    if path is not None:
        try:
            own = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ThresholdError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        if own is not None and not isinstance(own, dict):
            raise ThresholdError(f"{path}: must hold keys such as events or features")
        values = _merged(values, own or {})
    try:
        return Thresholds.model_validate(values)
    except ValidationError as error:
        causes = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ThresholdError(f"{path or DEFAULTS.name}: {'; '.join(causes)}") from None


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` with the values of ``above``, key by key however deep."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
        merged[name] = _merged(below[name], value) if both else value
    return merged
