"""In which form posted events land, so that ingestion reads them as it reads the source's own files."""

from __future__ import annotations

from datetime import date
from pathlib import PurePosixPath
from typing import Any

from orchestration.ingest.errors import IngestError
from orchestration.ingest.files import expected_name, takes
from orchestration.ingest.spec import EventsSpec, load_spec
from orchestration.settings import Settings
from serving.inbox import LandingForm

_NAME = "{day}.posted.jsonl"
_A_DAY = date(2000, 1, 1)


def landing_form(settings: Settings) -> dict[str, Any]:
    """Return where and how the service writes posted events.

    Where the spec's own pattern takes in a second file a day, such as ``events/{day}*.jsonl``, they land beside the
    source's file and in its form, and the night reads them. Elsewhere they are kept below ``posted/``, in canonical
    fields, for a spec of the user's own.
    """
    try:
        form = _form_of(load_spec(settings.source).events)
    except IngestError:
        form = None
    form = form or LandingForm(path="posted/{day}.jsonl")
    landing = settings.landing
    if landing.is_relative_to(settings.home):
        landing = landing.relative_to(settings.home)
    return form.model_copy(update={"path": str(landing / form.path)}).model_dump(mode="json")


def _form_of(events: EventsSpec) -> LandingForm | None:
    """Return the form of a source whose events can be written as it writes them; None where they cannot."""
    path = str(PurePosixPath(events.path).with_name(_NAME))
    if events.format != "jsonl" or not events.daily or not takes(events.path, expected_name(path, _A_DAY)):
        return None
    columns = {}
    for name in type(events.columns).model_fields:
        origin = getattr(events.columns, name)
        if origin is None or origin.column is None:
            continue
        if origin.column.startswith("/") or origin.first or origin.when is not None:
            return None
        columns[name] = origin.column
    if not {"event_id", "user_id", "item_id", "event_type", "event_ts"} <= columns.keys():
        return None
    types = {canonical: given for given, canonical in (events.event_types or {}).items()}
    return LandingForm(path=path, columns=columns, event_types=types, time_unit=events.time_unit)
