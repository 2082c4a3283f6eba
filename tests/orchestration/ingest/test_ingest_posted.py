"""What was posted to the service on a day is read with that day's own file, each event once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from orchestration.ingest.events import ingest_events
from orchestration.ingest.spec import load_spec
from orchestration.posted import landing_form
from orchestration.settings import Settings
from serving.inbox import Inbox, LandingForm

NOW = datetime(2025, 3, 5, 12, tzinfo=UTC)


def test_a_night_reads_what_was_posted(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    day = tmp_path / "landing" / "events" / "2025-03-05.jsonl"
    day.parent.mkdir(parents=True)
    at = int(NOW.timestamp() * 1000)
    day.write_text(json.dumps({"id": "e1", "ts": at, "type": "view", "user": "u1", "item": "i1"}) + "\n")
    form = LandingForm.model_validate(landing_form(settings))
    posted = {"event_type": "cart", "event_ts": NOW, "user_id": "u2", "item_id": "i2", "value": 9.5}
    assert Inbox(tmp_path, form).add([{"event_id": "web-1"} | posted], NOW) == [True]

    report = ingest_events(
        load_spec("simulator"), settings.landing, [NOW.date()], settings.lake, settings.quarantine
    )

    assert (report.accepted, report.quarantined) == (2, 0)
    rows = pq.read_table(settings.lake / "events" / "day=2025-03-05" / "events.parquet").to_pylist()
    told = [
        (r["event_id"], r["user_id"], r["item_id"], r["event_type"], r["event_ts"], r["value"]) for r in rows
    ]
    assert told == [
        ("e1", "u1", "i1", "view", NOW, None),
        ("web-1", "u2", "i2", "cart", NOW, 9.5),
    ]
    assert rows[1]["source_file"] == "events/2025-03-05.posted.jsonl"
