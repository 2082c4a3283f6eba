"""Source specs: one YAML file says where a source's logs are and what their columns mean."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ml.histories import EventType
from orchestration.ingest.errors import IngestError, one_line

SOURCES = Path(__file__).parent.parent / "sources"

_LONGEST_LINE = 100_000_000
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ELSEWHERE = re.compile(r"^~|\$|\\|://|[\x00-\x1f]")
_DAY_FORMAT = re.compile(r"day(?::((?:[^%{}*]|%[Ymd])+))?")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_path(path: str) -> str:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or _ELSEWHERE.search(path):
        raise ValueError("must be a path below the data folder, without .., ~, $, backslashes or a URL's ://")
    placeholders = _PLACEHOLDER.findall(path)
    if len(placeholders) > 1 or any(_DAY_FORMAT.fullmatch(p) is None for p in placeholders):
        raise ValueError("may hold one placeholder, {day} or {day:FORMAT} with %Y, %m and %d")
    if placeholders and (form := day_format(path)) and any(form.count(d) != 1 for d in ("%Y", "%m", "%d")):
        raise ValueError("the format of {day} needs each of %Y, %m and %d once")
    return path


def day_format(path: str) -> str | None:
    """Return the ``strftime`` format of the ``{day}`` in a path pattern; ``None`` where there is none."""
    found = _PLACEHOLDER.search(path)
    if found is None:
        return None
    match = _DAY_FORMAT.fullmatch(found.group(1))
    return (match.group(1) if match else None) or "%Y-%m-%d"


PathPattern = Annotated[str, AfterValidator(_check_path)]
Text = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) else v)]


class Condition(_Strict):
    """A test on one source column: its value is, or is not, among the listed ones.

    A row without the value fails ``in`` and passes ``not_in``.
    """

    column: str
    in_: tuple[Text, ...] | None = Field(None, alias="in")
    not_in: tuple[Text, ...] | None = None

    @model_validator(mode="after")
    def _one_test(self) -> Condition:
        if (self.in_ is None) == (self.not_in is None):
            raise ValueError("needs exactly one of in, not_in")
        return self


class Column(_Strict):
    """Where a canonical field comes from.

    Parameters
    ----------
    column
        Column of the file. In JSON lines a key, or a pointer such as ``/context/user`` into nested objects.
    constant
        The value of every row, in place of a column.
    default
        The value where the column has none.
    nulls
        Values that mean "no value".
    when
        Take the value only where this holds.
    first
        The column holds a list: take its first element.
    """

    column: str | None = None
    constant: Text | None = None
    default: Text | None = None
    nulls: tuple[Text, ...] = ()
    when: Condition | None = None
    first: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> Column:
        if (self.column is None) == (self.constant is None):
            raise ValueError("needs exactly one of column, constant")
        return self


class ListColumn(_Strict):
    """Where a list-valued field comes from.

    Parameters
    ----------
    column
        Column that holds a list, a list of lists (the first one is taken), or text.
    split
        Separator of the elements where the column holds text.
    drop
        Elements to leave out.
    without
        Leave out the element that became this canonical field.
    """

    column: str
    split: str | None = Field(None, min_length=1)
    drop: tuple[Text, ...] = ()
    without: Literal["brand"] | None = None


def _shorthand(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


Origin = Annotated[Column, BeforeValidator(_shorthand)]
ListOrigin = Annotated[ListColumn, BeforeValidator(_shorthand)]


class EventColumns(_Strict):
    """Canonical event fields, each with its origin."""

    user_id: Origin
    event_type: Origin
    event_ts: Origin
    item_id: Origin | None = None
    event_id: Origin | None = None
    session_id: Origin | None = None
    value: Origin | None = None
    query: Origin | None = None
    position: Origin | None = None


class ItemColumns(_Strict):
    """Canonical item fields, each with its origin; ``attributes`` may be one column that holds an object."""

    item_id: Origin
    title: Origin | None = None
    description: Origin | None = None
    brand: Origin | None = None
    categories: ListOrigin | None = None
    price: Origin | None = None
    valid_from: Origin | None = None
    attributes: dict[str, Origin] | str = Field(default_factory=dict)


class FileSpec(_Strict):
    """Files of one shape: where they are and how to read them."""

    path: PathPattern
    format: Literal["csv", "tsv", "jsonl", "parquet"]
    delimiter: str | None = Field(None, min_length=1)
    quote: bool | None = None
    header: tuple[str, ...] | None = Field(None, min_length=1)
    time_unit: Literal["s", "ms", "us", "iso"] = "iso"
    filters: tuple[Condition, ...] = ()
    max_line_bytes: int = Field(10_000, gt=0, le=_LONGEST_LINE)
    max_field_bytes: int = Field(2_000, gt=0)

    @model_validator(mode="after")
    def _shape(self) -> FileSpec:
        if not self.separated and (self.delimiter or self.quote is not None or self.header):
            raise ValueError("delimiter, quote and header are for csv and tsv")
        if self.separated and self.quoted and (len(self.separator) > 1 or self.separator in '"\\'):
            raise ValueError("quoted fields need a delimiter of one character; or set quote: false")
        if self.path.endswith((".gz", ".zst")) and self.format == "parquet":
            raise ValueError("Parquet compresses itself; .gz and .zst are for text")
        return self

    @property
    def separated(self) -> bool:
        """Whether a row is text with separators between its fields."""
        return self.format in ("csv", "tsv")

    @property
    def daily(self) -> bool:
        """Whether each file belongs to one day, which its name tells."""
        return day_format(self.path) is not None

    @property
    def separator(self) -> str:
        """Text between two fields of a line."""
        return self.delimiter or {"tsv": "\t"}.get(self.format, ",")

    @property
    def quoted(self) -> bool:
        """Whether fields may stand in double quotes."""
        return self.format == "csv" if self.quote is None else self.quote


class EventsSpec(FileSpec):
    """The event files of a source."""

    columns: EventColumns
    event_types: dict[Text, EventType] | None = None
    natural_key: tuple[str, ...] | None = Field(None, min_length=1)
    repeats: Literal["drop", "keep"] = "drop"
    future_tolerance_seconds: int = Field(300, ge=0)
    max_late_days: int | None = Field(None, ge=0)
    allow_empty_days: bool = False

    @model_validator(mode="after")
    def _types(self) -> EventsSpec:
        constant = self.columns.event_type.constant
        if constant is not None and constant not in self.type_map:
            raise ValueError(f"columns.event_type.constant: {constant!r} is not an event type of this source")
        if self.columns.item_id is None and set(self.type_map.values()) != {"search"}:
            raise ValueError("columns.item_id: needed by every event type but search")
        if self.columns.event_id is not None and (self.natural_key or self.repeats == "keep"):
            raise ValueError("natural_key and repeats are for sources without an event_id column")
        if self.max_late_days is not None and not self.daily:
            raise ValueError("max_late_days is for daily files; in others an event arrives on its own date")
        return self

    @property
    def type_map(self) -> dict[str, str]:
        """Value of the source to canonical type; the canonical names themselves where the spec maps none."""
        if self.event_types is not None:
            return dict(self.event_types)
        return {name: name for name in EventType.__args__}  # type: ignore[attr-defined]

    @property
    def produced_types(self) -> set[str]:
        """Canonical types that this source can yield."""
        constant = self.columns.event_type.constant
        return {self.type_map[constant]} if constant is not None else set(self.type_map.values())


class ItemsSpec(FileSpec):
    """The catalogue files of a source."""

    columns: ItemColumns
    unescape_html: bool = False
    max_line_bytes: int = Field(200_000, gt=0, le=_LONGEST_LINE)
    max_field_bytes: int = Field(100_000, gt=0)


class SourceSpec(_Strict):
    """Everything that Tessera knows about a source.

    Parameters
    ----------
    name
        Written into the ``source`` column of every row.
    description, license
        For people.
    start_date, end_date
        First and last day with data; no ``end_date`` where the source still grows.
    history_event_types
        Types that make up a user's history: positive feedback.
    cadence
        Length of a Dagster partition. Daily suits logs that land daily; a file of many years is cheaper in months.
    events, items
        The files; a source may come without a catalogue.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    description: str
    license: str
    start_date: date
    end_date: date | None = None
    history_event_types: tuple[EventType, ...] = Field(min_length=1)
    cadence: Literal["daily", "weekly", "monthly"] = "daily"
    events: EventsSpec
    items: ItemsSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SourceSpec:
        if self.end_date is not None and self.end_date < self.start_date:
            raise ValueError("end_date is before start_date")
        if strange := sorted({*map(str, self.history_event_types)} - self.events.produced_types):
            raise ValueError(f"history_event_types: no event of this source becomes {', '.join(strange)}")
        return self

    def covers(self, day: date) -> bool:
        """Tell whether ``day`` lies within the source's dates."""
        return self.start_date <= day and (self.end_date is None or day <= self.end_date)


def spec_names() -> list[str]:
    """Return the names of the shipped sources."""
    return sorted(path.stem for path in SOURCES.glob("*.yaml"))


def load_spec(name_or_path: str | Path) -> SourceSpec:
    """Read a source spec.

    Parameters
    ----------
    name_or_path
        Name of a shipped source, or path of a YAML file.

    Raises
    ------
    IngestError
        If there is no such spec, or if it is malformed; one line with file, field and cause.
    """
    name = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or name.endswith((".yaml", ".yml")) or "/" in name
    path = Path(name_or_path) if is_path else SOURCES / f"{name}.yaml"
    if not path.is_file():
        if is_path:
            raise IngestError(f"{path}: there is no such source spec")
        raise IngestError(
            f"unknown source {name!r}; known are {', '.join(spec_names())}, or give the path of a .yaml file"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise IngestError(f"{path}: {one_line(error)}") from None
    except yaml.YAMLError as error:
        raise IngestError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return SourceSpec.model_validate(content)
    except ValidationError as error:
        raise IngestError(f"{path}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(str(part) for part in problems[0]["loc"])
    what = " ".join(problems[0]["msg"].removeprefix("Value error, ").split())
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"
