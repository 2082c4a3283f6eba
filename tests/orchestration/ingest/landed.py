"""Small landing files and what becomes of them, shared by the tests of ingestion."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.ingest.events import available_days, ingest_events
from orchestration.ingest.items import ingest_items
from orchestration.ingest.options import Options
from orchestration.ingest.report import IngestReport
from orchestration.ingest.spec import SourceSpec

NOW = datetime(2025, 6, 1, tzinfo=UTC)
FIRST, SECOND = date(2025, 3, 1), date(2025, 3, 2)

DAILY: dict[str, Any] = {
    "name": "shop",
    "description": "a shop",
    "license": "ours",
    "start_date": "2025-03-01",
    "history_event_types": ["view", "purchase"],
    "events": {
        "path": "events/{day}.jsonl",
        "format": "jsonl",
        "time_unit": "ms",
        "columns": {
            "event_id": "id",
            "user_id": "user",
            "item_id": "item",
            "event_type": "type",
            "event_ts": "ts",
            "session_id": "session",
            "value": "price",
            "query": "query",
            "position": "pos",
        },
    },
}

MANY_DAYS: dict[str, Any] = {
    "name": "ratings",
    "description": "ratings",
    "license": "ours",
    "start_date": "2025-01-01",
    "history_event_types": ["rating"],
    "events": {
        "path": "ratings.csv",
        "format": "csv",
        "time_unit": "s",
        "columns": {
            "user_id": "user",
            "item_id": "item",
            "event_type": {"constant": "rating"},
            "event_ts": "time",
            "value": "stars",
        },
    },
}


def spec_of(base: dict[str, Any], items: dict[str, Any] | None = None, **events: Any) -> SourceSpec:
    """The spec ``base``, with some settings of its event files changed."""
    return SourceSpec.model_validate(base | {"items": items, "events": base["events"] | events})


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def event_line(number: int, **changes: Any) -> bytes:
    event = {
        "id": f"e{number}",
        "ts": ms("2025-03-01T12:00:00") + number,
        "type": "view",
        "user": f"u{number % 3}",
        "item": f"i{number % 5}",
    }
    return json.dumps({k: v for k, v in (event | changes).items() if v is not None}).encode()


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


@dataclass
class Home:
    """A landing folder, a lake and a quarantine."""

    root: Path

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    def ingest(self, spec: SourceSpec, days: Iterable[date] | None = None, **options: Any) -> IngestReport:
        wanted = available_days(spec, self.landing, now=NOW) if days is None else days
        chosen = Options(**({"memory_limit": "500MB"} | options))
        return ingest_events(
            spec, self.landing, wanted, self.root / "lake", self.root / "quarantine", NOW, chosen
        )

    def ingest_items(self, spec: SourceSpec, **options: Any) -> IngestReport:
        return ingest_items(spec, self.landing, self.root / "lake", self.root / "quarantine", **options)

    def events(self, day: str) -> list[dict[str, Any]]:
        return self._rows(self.root / "lake" / "events" / f"day={day}" / "events.parquet")

    def rejected(self, day: str) -> list[dict[str, Any]]:
        return self._rows(self.root / "quarantine" / "events" / f"day={day}" / "rejected.parquet")

    def items(self) -> list[dict[str, Any]]:
        return self._rows(self.root / "lake" / "items" / "items.parquet")

    def rejected_items(self) -> list[dict[str, Any]]:
        return self._rows(self.root / "quarantine" / "items" / "rejected.parquet")

    def manifest(self, day: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(
            (self.root / "lake" / "events" / f"day={day}" / "manifest.json").read_text()
        )
        return manifest

    def files(self) -> dict[str, bytes]:
        """Everything that was published, by name."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for part in ("lake", "quarantine")
            for path in sorted((self.root / part).rglob("*"))
            if path.is_file()
        }

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        table: pa.Table = pq.ParquetFile(path).read()
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows


def land(home: Home, day: str, lines: list[bytes]) -> Path:
    """Write a day's file of the source ``DAILY``."""
    path = home.landing / "events" / f"{day}.jsonl"
    write_lines(path, lines)
    return path


def land_csv(home: Home, *lines: str) -> Path:
    """Write the file of the source ``MANY_DAYS``."""
    path = home.landing / "ratings.csv"
    write_lines(path, [line.encode() for line in ("user,item,time,stars", *lines)])
    return path


def noon(day: int) -> int:
    """Seconds since 1970 at noon of a day of March 2025."""
    return ms(f"2025-03-{day:02}T12:00:00") // 1000
