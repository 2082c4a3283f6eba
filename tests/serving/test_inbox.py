"""Posted events are on disk once, in the source's form, whoever writes and whatever was cut short."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serving.inbox import Inbox, LandingForm

NOW = datetime(2025, 3, 31, 12, tzinfo=UTC)


def event(event_id: str, **more: Any) -> dict[str, Any]:
    return {"event_id": event_id, "event_type": "view", "event_ts": NOW, "user_id": "u", "query": None} | more


def lines(home: Path, day: str = "2025-03-31") -> list[dict[str, Any]]:
    path = home / "landing" / "posted" / f"{day}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_id_once(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, LandingForm())
    assert inbox.add([event("a"), event("b"), event("a")], NOW) == [True, True, False]
    assert inbox.add([event("b"), event("c")], NOW) == [False, True]
    # Another process, and the next day.
    other = Inbox(tmp_path, LandingForm())
    assert other.add([event("c"), event("d")], NOW) == [False, True]
    assert inbox.add([event("d"), event("e")], NOW + timedelta(days=1)) == [False, True]
    assert [line["event_id"] for line in lines(tmp_path)] == ["a", "b", "c", "d"]
    assert [line["event_id"] for line in lines(tmp_path, "2025-04-01")] == ["e"]
    # Two days later an id is no longer known.
    assert inbox.add([event("a")], NOW + timedelta(days=2)) == [True]
    assert lines(tmp_path)[0] == {
        "event_id": "a",
        "event_type": "view",
        "event_ts": "2025-03-31T12:00:00.000000+00:00",
        "user_id": "u",
    }


def test_lines_are_in_the_form_of_the_source(tmp_path: Path) -> None:
    columns = {"event_id": "id", "event_type": "type", "event_ts": "ts", "user_id": "who"}
    form = LandingForm(
        path="logs/{day}.posted.jsonl", columns=columns, event_types={"view": "SHOW"}, time_unit="ms"
    )
    inbox = Inbox(tmp_path, form)
    assert inbox.add([event("a", query="tea"), event("b", event_type="cart")], NOW) == [True, True]
    told = (tmp_path / "logs" / "2025-03-31.posted.jsonl").read_text().splitlines()
    at = int(NOW.timestamp() * 1000)
    assert [json.loads(line) for line in told] == [
        {"id": "a", "type": "SHOW", "ts": at, "who": "u"},
        {"id": "b", "type": "cart", "ts": at, "who": "u"},
    ]
    assert Inbox(tmp_path, form).add([event("a")], NOW) == [False]


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    Inbox(tmp_path, LandingForm()).add([event("a")], NOW)
    path = tmp_path / "landing" / "posted" / "2025-03-31.jsonl"
    with path.open("a") as file:
        file.write('{"event_id": "b", "eve')
    inbox = Inbox(tmp_path, LandingForm())
    assert inbox.add([event("b"), event("a")], NOW) == [True, False]
    assert inbox.add([event("b")], NOW) == [False]
    told = path.read_text().splitlines()
    assert [json.loads(line)["event_id"] for line in (told[0], told[2])] == ["a", "b"]


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, LandingForm())
    inbox.add([event("a"), event("b")], NOW)
    path = tmp_path / "landing" / "posted" / "2025-03-31.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[1])
    assert inbox.add([event("a"), event("b")], NOW) == [True, False]


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    taken: list[int] = []

    def write() -> None:
        inbox = Inbox(tmp_path, LandingForm())
        taken.extend(sum(inbox.add([event(f"e{n}")], NOW)) for n in range(20))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line["event_id"] for line in lines(tmp_path)) == sorted(f"e{n}" for n in range(20))
    assert sum(taken) == 20


def test_batch_that_the_disk_takes_in_part_is_taken_back(tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: a part is written, and then no more."""
    code = (
        "import resource, sys; from datetime import datetime; from pathlib import Path\n"
        "from serving.inbox import Inbox, LandingForm\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "now = datetime.fromisoformat(sys.argv[2])\n"
        "event = {'event_type': 'view', 'event_ts': now, 'user_id': 'u'}\n"
        "Inbox(Path(sys.argv[1]), LandingForm()).add([event | {'event_id': f'b{n}'} for n in range(9)], now)\n"
    )
    inbox = Inbox(tmp_path, LandingForm())
    inbox.add([event("a")], NOW)
    path = tmp_path / "landing" / "posted" / "2025-03-31.jsonl"
    before = path.read_bytes()
    assert len(before) < 300
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, NOW.isoformat()], capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large"
    assert path.read_bytes() == before
    # Sent again when there is room, all of it is new.
    assert inbox.add([event(f"b{n}") for n in range(9)], NOW) == [True] * 9
    assert len(lines(tmp_path)) == 10


def test_nothing_is_taken_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "landing").write_text("not a folder")
    with pytest.raises(OSError, match="landing"):
        Inbox(tmp_path, LandingForm()).add([event("a")], NOW)
