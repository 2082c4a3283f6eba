"""A user who was erased is in no file, comes back with no file, and an erasure that was killed can be finished."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts import ArtifactError, current, read_json, write_json, write_text
from ml.snapshot import load_snapshot
from orchestration.ingest import erased
from orchestration.ingest.events import available_days, ingest_events
from orchestration.ingest.options import Options
from orchestration.ingest.spec import load_spec
from orchestration.privacy.erase import PENDING, erase_derived
from orchestration.privacy.tables import erase_days
from orchestration.settings import Settings
from orchestration.simulate import simulate
from orchestration.simulate.config import SimulationConfig

TINY = {"DAYS": "5", "EVENTS": "6000", "ITEMS": "150", "USERS": "120"}
STEPS = ("erase_from_lake", "rebuild_warehouse", "erase_online", "erase_derived", "verify_erasure")
STRANGER = "nobody-by-this-name"


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestration", *arguments]


def environment(home: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "DAGSTER_"))}
    sizes = {f"TESSERA_SIMULATION__{name}": value for name, value in TINY.items()}
    return clean | sizes | {"TESSERA_HOME": str(home), "TESSERA_RECIPES": "popularity,transitions"}


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *arguments), env=environment(home), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after a whole demo, in which failing rows, logs and an older version name users too."""
    home = tmp_path_factory.mktemp("privacy") / "home"
    result = run(home, "demo")
    assert result.returncode == 0, result.stdout + result.stderr
    user, other = users_of(home)[:2]
    (home / "dagster" / "demo.log").write_text(f"a row of {user} was odd\n")
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        instance.run_storage.add_run(dg.DagsterRun("odd", run_id=str(uuid.uuid4()), tags={"who": user}))
    failed = home / "quality" / "failed" / "events" / "latest"
    failed.mkdir(parents=True, exist_ok=True)
    rows = pa.table({"user_id": [user, other], "item_id": ["i1", "i2"]})
    pq.write_table(rows, failed / "some_rule.parquet")
    page = home / "quality" / "events" / "old.html"
    page.write_text(f"<p>such as {user}</p>")
    older = home / "recommendations" / "0123456789abcdef"
    shutil.copytree(current(home / "recommendations"), older)
    (home / ".marts.leftover").mkdir()
    shutil.copy(home / "marts" / "dim_users.parquet", home / ".marts.leftover" / "dim_users.parquet")
    shutil.copy(home / "marts" / "dim_users.parquet", home / "feast" / ".item_semantic_id.parquet.a1b2c3d_")
    return home


@pytest.fixture
def home(demo_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_home, tmp_path / "home", copy_function=shutil.copy2))


def users_of(home: Path) -> list[str]:
    """Users of the marts: those with quarantined rows and long histories first."""
    users = pq.read_table(home / "marts" / "dim_users.parquet", columns=["user_id"])["user_id"].to_pylist()
    rejected = " ".join(
        str(raw)
        for path in (home / "quarantine" / "events").rglob("*.parquet")
        for raw in pq.read_table(path)["raw"].to_pylist()
    )
    return sorted(users, key=lambda user: (user not in rejected, user))


def texts(array: pa.Array | pa.ChunkedArray) -> Iterator[str]:
    """Every text in a column, however deep."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield from texts(array.dictionary_decode())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (text for text in array.to_pylist() if text is not None)
    elif pa.types.is_map(kind):
        yield from texts(array.keys)
        yield from texts(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from texts(array.flatten())
    elif pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            yield from texts(array.field(place))


def holders(home: Path, user: str) -> list[str]:
    """Every file that holds a user's id: in its bytes, in the values of Parquet, or in a table of DuckDB."""
    found = []
    for path in sorted(home.rglob("*")):
        if path.is_dir() or path.is_relative_to(home / "landing"):
            continue
        held = user.encode() in path.read_bytes() or user in path.name
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            held |= any(user in text for column in table.columns for text in texts(column))
        if path.suffix == ".duckdb":
            held |= user in warehouse_texts(path)
        if held:
            found.append(path.relative_to(home).as_posix())
    return found


def warehouse_texts(path: Path) -> str:
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal"
        ).fetchall()
        return " ".join(
            str(connection.execute(f'SELECT * FROM "{schema}"."{name}"').fetchall())
            for schema, name in tables
        )


@pytest.mark.slow
def test_search_finds_what_is_there(home: Path) -> None:
    """The search of the other tests can fail: before an erasure it finds a user in every stage."""
    stages = {name.split("/")[0] for name in holders(home, users_of(home)[0])}
    assert stages >= {
        *("lake", "quarantine", "marts", "warehouse.duckdb", "feast", "snapshots", "recommendations"),
        *("quality", "dagster", "truth", ".marts.leftover"),
    }


@pytest.mark.slow
def test_erased_user_is_in_no_file_and_does_not_come_back(home: Path) -> None:
    user, other = users_of(home)[:2]
    before = current(home / "recommendations").name
    result = run(home, "erase", user)
    assert result.returncode == 0, result.stdout + result.stderr
    assert holders(home, user) == []
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        assert "erase_users" in {run.job_name for run in instance.get_runs()}
    assert user not in result.stdout
    # What is said: landing files are others' to delete, and models remember.
    assert "landing files still hold them" in result.stdout
    assert "retrain" in result.stdout
    # Everybody else is still there, and what is live still serves.
    assert {"lake", "marts", "feast"} <= {name.split("/")[0] for name in holders(home, other)}
    assert current(home / "recommendations").name == before
    snapshot = load_snapshot(current(home / "snapshots"))
    assert user not in snapshot.user_ids
    assert len(snapshot.user_ids) == len(snapshot.histories) == snapshot.manifest.metrics["users"]
    assert not (home / "erasing.json").exists()
    record = [json.loads(line) for line in (home / "erasures.jsonl").read_text().splitlines()]
    assert [line["erasure"] for line in record] == ["requested", "finished"]
    assert record[0]["digests"] == record[1]["digests"] == read_json(home / "erased.json")["digests"]


@pytest.mark.slow
def test_stranger_is_recorded_and_nothing_is_rebuilt(home: Path) -> None:
    inode = (home / "warehouse.duckdb").stat().st_ino
    result = run(home, "erase", STRANGER)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nobody of that name" in result.stdout
    assert (home / "warehouse.duckdb").stat().st_ino == inode
    assert len(read_json(home / "erased.json")["digests"]) == 1


@pytest.mark.slow
def test_nobody_to_erase_is_one_line(home: Path) -> None:
    result = run(home, "erase")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "name the users to erase" in result.stderr


@pytest.mark.slow
def test_killed_erasure_is_finished_by_the_same_command(home: Path) -> None:
    """Kills in every step; the list of the erased is written first, so that no ingestion in between brings them in."""
    user = users_of(home)[0]
    moments = random.Random(5)
    for step in ("erase_from_lake", "rebuild_warehouse", "erase_online", "erase_derived"):
        process = subprocess.Popen(
            command(home, "erase", user),
            env=environment(home),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        before = STEPS[STEPS.index(step) - 1]
        while (
            step != "erase_from_lake" and process.poll() is None and before not in process.stdout.readline()
        ):
            pass
        time.sleep(moments.uniform(0, 3 if step != "erase_derived" else 0.2))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    result = run(home, "erase", user)
    assert result.returncode == 0, result.stdout + result.stderr
    assert holders(home, user) == []


def test_erased_days_are_those_that_ingestion_makes_without_the_user(tmp_path: Path) -> None:
    """Counts, quarantine and bytes: ingesting the same files again changes nothing, and brings nobody back."""
    landing, lake, quarantine = (tmp_path / name for name in ("landing", "lake", "quarantine"))
    config = SimulationConfig(days=4, events=4000, items=100, users=40, broken=0.03)
    simulate(config, landing, tmp_path / "truth")
    spec = load_spec("simulator")
    days = available_days(spec, landing)
    ingest_events(spec, landing, days, lake, quarantine)
    refused = pq.read_table(sorted(quarantine.rglob("*.parquet")))["raw"].to_pylist()
    named = [line for line in refused if line and '"user": "u0' in line.replace('":"', '": "')]
    user = named[0][named[0].index("u0") :][:7]
    listed = erased.add(tmp_path / "erased.json", [user])
    assert erase_days(lake, quarantine, [user], daily=True) > 0
    assert erase_days(lake, quarantine, [user], daily=True) == 0
    again = ingest_events(spec, landing, days, lake, quarantine, options=Options(erased=listed))
    assert again.erased > 0
    assert {day: report.changed for day, report in again.days.items()} == dict.fromkeys(map(str, days), False)
    assert holders(tmp_path / "lake", user) == holders(quarantine, user) == []


def test_snapshot_whose_manifest_is_damaged_is_not_passed_over(tmp_path: Path) -> None:
    """What the user did stands in its tensors, in which nobody is named."""
    write_json(tmp_path / PENDING, {"users": {"u1": True}})
    snapshot = tmp_path / "snapshots" / "s"
    write_text(snapshot / "manifest.json", "{")
    pq.write_table(pa.table({"user_id": ["u1"]}), snapshot / "users.parquet")
    with pytest.raises(ArtifactError, match=r"snapshots/s/manifest\.json is not valid JSON"):
        erase_derived(Settings(home=tmp_path))
