"""SQL that turns a file's rows into canonical rows, each accepted or with the reason why not."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from orchestration.ingest.fields import Rows
from orchestration.ingest.report import ERASED, TOO_LATE
from orchestration.ingest.spec import Column, EventsSpec, ItemsSpec, SourceSpec
from orchestration.ingest.sql import condition, elements, finite, kept_elements, literal, microseconds, scalar
from orchestration.ingest.users import Users

_SHOWN = 80

STAGED_EVENTS = """CREATE OR REPLACE TEMP TABLE staged_events (
    day DATE, event_id VARCHAR, user_id VARCHAR, item_id VARCHAR, event_type VARCHAR, event_ts TIMESTAMPTZ,
    session_id VARCHAR, value DOUBLE, query VARCHAR, position INTEGER, source_file VARCHAR, source_row BIGINT,
    file_no INTEGER, reason VARCHAR, detail VARCHAR, raw VARCHAR)"""

STAGED_ITEMS = """CREATE OR REPLACE TEMP TABLE staged_items (
    item_id VARCHAR, title VARCHAR, description VARCHAR, brand VARCHAR, categories VARCHAR[], price DOUBLE,
    attributes MAP(VARCHAR, VARCHAR), valid_from TIMESTAMPTZ, source_file VARCHAR, source_row BIGINT,
    file_no INTEGER, reason VARCHAR, detail VARCHAR, raw VARCHAR)"""


def key_columns(events: EventsSpec) -> list[str]:
    """Return the source columns that name an event where the source has no event id of its own."""
    if events.columns.event_id is not None:
        return []
    if events.natural_key is not None:
        return list(events.natural_key)
    origins = [getattr(events.columns, name) for name in type(events.columns).model_fields]
    return list(dict.fromkeys(o.column for o in origins if o is not None and o.column is not None))


def staged_events(
    spec: SourceSpec,
    day: date | None,
    latest: datetime,
    file_no: int,
    file_name: str,
    users: Users,
    rows: Rows,
) -> str:
    """Return the query whose result goes into ``staged_events``; its parameters are those of ``users``.

    Rows of erased users have the reason ``erased`` and nothing that could tell whose they were.

    Parameters
    ----------
    spec
        The source.
    day
        Arrival day of a daily file; ``None`` for a file of many days, whose rows arrive on their own UTC date.
    latest
        A later event is in the future.
    file_no, file_name
        Place of the file in the total order, and its name.
    users
        What becomes of user ids.
    rows
        Relation over the file.
    """
    events, f = spec.events, rows.f
    columns = events.columns
    keep = " AND ".join(condition(test, f) for test in events.filters) or "true"
    mapped = f"""
        SELECT *,
            {_event_id(spec, rows, users)} AS event_id,
            {scalar(columns.user_id, f)} AS user_given,
            {scalar(columns.item_id, f)} AS item_id,
            {scalar(columns.event_type, f)} AS type_given,
            {scalar(columns.event_ts, f)} AS ts_given,
            {scalar(columns.session_id, f)} AS session_id,
            {scalar(columns.value, f)} AS value_given,
            {scalar(columns.query, f)} AS query,
            {scalar(columns.position, f)} AS position_given
        FROM ({rows.query})
        WHERE flaw IS NOT NULL OR ({keep})"""
    typed = f"""
        SELECT *, {users.known("user_given")} AS user_id, {_type_case(events)} AS event_type,
            {microseconds("ts_given", events.time_unit)} AS us,
            {finite("value_given")} AS value,
            TRY_CAST(position_given AS INTEGER) AS position
        FROM ({mapped})"""
    dated = f"SELECT *, {_day(spec, day, latest)} AS day FROM ({typed})"
    judged = f"SELECT *, {_event_reason(events, day, latest, users)} AS reason FROM ({dated})"
    values = ["event_id", "user_id", "item_id", "event_type", "make_timestamptz(us)"]
    values += ["session_id", "value", "query", "position"]
    refused = "reason IS NOT NULL"
    if users.erases:
        values = [f"CASE WHEN reason IS DISTINCT FROM '{ERASED}' THEN {value} END" for value in values]
        refused = f"reason <> '{ERASED}'"
    raw = users.raw("raw", "user_given", "user_id", None if events.separated else _json_key(columns.user_id))
    return f"""
        SELECT day, {", ".join(values)}, {literal(file_name)}, row, {file_no},
            reason, {_event_detail(events, day, latest)}, {raw}
        FROM (SELECT *, CASE WHEN {refused} THEN {rows.raw} END AS raw FROM ({judged}))"""


def staged_items(items: ItemsSpec, rows: Rows, file_no: int, file_name: str, day: date | None) -> str:
    """Return the query whose result goes into ``staged_items``.

    Where the source gives no ``valid_from``, the day of a daily file stands in.
    """
    columns, f = items.columns, rows.f
    texts = ("title", "description", "brand")
    keep = " AND ".join(condition(test, f) for test in items.filters) or "true"
    mapped = f"""
        SELECT *,
            {", ".join(f"{scalar(getattr(columns, name), f)} AS {name}" for name in ("item_id", *texts))},
            {elements(columns.categories, f)} AS categories_given,
            {scalar(columns.price, f)} AS price_given,
            {scalar(columns.valid_from, f)} AS ts_given,
            {_attributes(columns.attributes, rows)}
        FROM ({rows.query})
        WHERE flaw IS NOT NULL OR ({keep})"""
    typed = f"""
        SELECT *, {microseconds("ts_given", items.time_unit)} AS us, {finite("price_given")} AS price,
            {kept_elements(columns.categories, "categories_given")} AS categories
        FROM ({mapped})"""
    judged = f"SELECT *, {_item_reason(items)} AS reason FROM ({typed})"
    unescape = "unescape_html({})" if items.unescape_html else "{}"
    shown = ", ".join(f"{unescape.format(name)} AS {name}" for name in texts)
    arrival = "NULL" if day is None else f"TIMESTAMPTZ '{day} 00:00:00+00'"
    return f"""
        SELECT item_id, {shown}, [{unescape.format("x")} FOR x IN categories], price, attributes,
            coalesce(make_timestamp(us) AT TIME ZONE 'UTC', {arrival}), {literal(file_name)}, row, {file_no},
            reason, {_item_detail(items)}, CASE WHEN reason IS NOT NULL THEN {rows.raw} END
        FROM ({judged})"""


def _json_key(user: Column) -> str:
    own = user.column or ""
    return own.rpartition("/")[2].replace("~1", "/").replace("~0", "~") if own.startswith("/") else own


def _event_id(spec: SourceSpec, rows: Rows, users: Users) -> str:
    """Return the source's own id, or a hash that any reader of the same row comes to."""
    own = spec.events.columns.event_id
    if own is not None:
        return scalar(own, rows.f)
    # A unit separator ends each value and a NULL is not an empty text, so no two keys read the same.
    user = spec.events.columns.user_id.column
    values = [
        f"coalesce('=' || {users.known(rows.f[column]) if column == user else rows.f[column]}, '')"
        for column in key_columns(spec.events)
    ]
    return "md5(" + " || chr(31) || ".join([literal(spec.name), *values]) + ")"


def _type_case(events: EventsSpec) -> str:
    whens = " ".join(f"WHEN {literal(k)} THEN {literal(v)}" for k, v in events.type_map.items())
    return f"CASE type_given {whens} END"


def _day(spec: SourceSpec, day: date | None, latest: datetime) -> str:
    """Return the arrival day as SQL; NULL for a row of a many-day file whose time says none that can be."""
    if day is not None:
        return f"DATE '{day}'"
    own = "CAST(make_timestamp(us) AS DATE)"
    last = f" AND {own} <= DATE '{spec.end_date}'" if spec.end_date else ""
    return f"CASE WHEN us <= {_epoch_us(latest)} AND {own} >= DATE '{spec.start_date}'{last} THEN {own} END"


def _oversized(names: tuple[str, ...], limit: int) -> str:
    # strlen counts bytes; a row shorter than the limit needs no look at its fields.
    tests = " OR ".join(f"coalesce(strlen({name}), 0) > {limit}" for name in names)
    return f"size > {limit} AND flaw IS NULL AND ({tests})"


_EVENT_TEXTS = ("event_id", "user_given", "item_id", "type_given", "ts_given", "session_id", "query")
_ITEM_TEXTS = ("item_id", "title", "description", "brand")


def _event_reason(events: EventsSpec, day: date | None, latest: datetime, users: Users) -> str:
    erased = f"WHEN {users.is_erased('user_id')} THEN '{ERASED}'" if users.erases else ""
    undated = "" if day is not None else "WHEN day IS NULL THEN 'outside_dates'"
    earliest = _earliest(events, day)
    late = "" if earliest is None else f"WHEN us < {_epoch_us(earliest)} THEN '{TOO_LATE}'"
    return f"""CASE
        {erased}
        WHEN flaw IS NOT NULL THEN flaw
        WHEN {_oversized(_EVENT_TEXTS, events.max_field_bytes)} THEN 'oversized_field'
        WHEN user_id IS NULL THEN 'missing_user'
        WHEN event_type IS NULL THEN 'unknown_type'
        WHEN item_id IS NULL AND event_type <> 'search' THEN 'missing_item'
        WHEN event_id IS NULL THEN 'missing_id'
        WHEN us IS NULL THEN 'unparsable_time'
        WHEN us > {_epoch_us(latest)} THEN 'future_time'
        {undated}
        {late}
        WHEN value_given IS NOT NULL AND value IS NULL THEN 'unparsable_number'
        WHEN position_given IS NOT NULL AND position IS NULL THEN 'unparsable_number'
        END"""


def _event_detail(events: EventsSpec, day: date | None, latest: datetime) -> str:
    happened = "date_diff('day', CAST(make_timestamp(us) AS DATE), day)"
    return f"""CASE reason
        WHEN 'oversized_field' THEN 'a field is longer than {events.max_field_bytes} bytes'
        WHEN 'unknown_type' THEN {_quote("type_given", "no event type")}
        WHEN 'missing_item' THEN 'an event of type ' || event_type || ' names no item'
        WHEN 'unparsable_time' THEN {_quote("ts_given", "no time")}
        WHEN 'future_time' THEN CAST(make_timestamp(us) AS VARCHAR) || ' is after {latest:%Y-%m-%d %H:%M:%S}'
        WHEN 'outside_dates' THEN CAST(make_timestamp(us) AS VARCHAR) || ' is outside the dates of the source'
        WHEN '{TOO_LATE}' THEN
            CAST(make_timestamp(us) AS VARCHAR) || ' is ' || {happened} || ' days before {day}, {events.max_late_days} are allowed'
        WHEN 'unparsable_number' THEN
            CASE WHEN value_given IS NOT NULL AND value IS NULL THEN 'value ' || {_quote("value_given", "")}
                 ELSE 'position ' || {_quote("position_given", "")} END
        ELSE trouble END"""


def _earliest(events: EventsSpec, day: date | None) -> datetime | None:
    """Return the time before which an event that arrives on ``day`` is too late."""
    if day is None or events.max_late_days is None:
        return None
    return datetime.combine(day, time(), UTC) - timedelta(days=events.max_late_days)


def _item_reason(items: ItemsSpec) -> str:
    return f"""CASE
        WHEN flaw IS NOT NULL THEN flaw
        WHEN {_oversized(_ITEM_TEXTS, items.max_field_bytes)} THEN 'oversized_field'
        WHEN item_id IS NULL THEN 'missing_item'
        WHEN ts_given IS NOT NULL AND us IS NULL THEN 'unparsable_time'
        WHEN price_given IS NOT NULL AND price IS NULL THEN 'unparsable_number'
        WHEN attributes_given IS NOT NULL AND attributes IS NULL THEN 'malformed_attributes'
        END"""


def _item_detail(items: ItemsSpec) -> str:
    return f"""CASE reason
        WHEN 'oversized_field' THEN 'a field is longer than {items.max_field_bytes} bytes'
        WHEN 'unparsable_time' THEN {_quote("ts_given", "")}
        WHEN 'unparsable_number' THEN 'price ' || {_quote("price_given", "")}
        WHEN 'malformed_attributes' THEN 'attributes are not an object'
        ELSE trouble END"""


def _attributes(origin: dict[str, Column] | str, rows: Rows) -> str:
    if isinstance(origin, str):
        value = rows.f[origin]
        given = f"CASE WHEN {value} <> '' THEN {value} END"
        parsed = f"TRY_CAST(CASE WHEN json_valid({value}) THEN {value} END AS JSON)"
        return f"{given} AS attributes_given, TRY_CAST({parsed} AS MAP(VARCHAR, VARCHAR)) AS attributes"
    pairs = ", ".join(
        f"{{k: {literal(name)}, v: {scalar(column, rows.f)}}}" for name, column in origin.items()
    )
    kept = f"[x FOR x IN [{pairs}] IF x.v IS NOT NULL]" if pairs else "[]"
    entries = f"map_from_entries({kept})" if pairs else "MAP {}"
    return (
        f"CAST(NULL AS VARCHAR) AS attributes_given, CAST({entries} AS MAP(VARCHAR, VARCHAR)) AS attributes"
    )


def _quote(value: str, absent: str) -> str:
    return f"coalesce('\"' || left({value}, {_SHOWN}) || '\"', {literal(absent)})"


def _epoch_us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
