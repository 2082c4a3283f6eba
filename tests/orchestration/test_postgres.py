"""A home whose Dagster and whose registry live in a real Postgres."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from night import nights
from test_kill import TINY, land
from test_nights import SETTINGS, published

from ml.artifacts import ArtifactError
from ml.registry import Registry
from orchestration.home import POSTGRES_SWITCH, prepare
from orchestration.settings import get_settings
from orchestration.simulate import simulate

PASSWORD = "p@ss/word-of-tessera"


@dataclass
class Postgres:
    """A server of our own."""

    programs: Path
    folder: Path
    port: int
    user: str | None

    def url(self, database: str) -> str:
        return f"postgresql://tessera:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(
            command, user=self.user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=60
        )

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("dagster_postgres", reason="not installed: pip install 'tessera[postgres]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("no postgres here (Debian package postgresql); .ci/run installs it where it can")
    user = None
    if os.getuid() == 0:
        # Postgres refuses to be run by root.
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
        if user is None:
            pytest.skip("postgres does not run as root, and there is no other user")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not below pytest's folder, which is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="tessera-postgres-"))
    server = Postgres(Path(initdb).resolve().parent, folder, port, user)
    try:
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        if user is not None:
            for path in (folder, secret):
                shutil.chown(path, user)
        access = ["-A", "scram-sha-256", "-U", "tessera", "--pwfile", str(secret)]
        server.run("initdb", "-D", str(folder / "data"), "--no-sync", *access)
        server.start()
        try:
            _create_databases(server)
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exists(user: str) -> bool:
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


def _create_databases(server: Postgres) -> None:
    import psycopg2

    connection = psycopg2.connect(server.url("postgres"))
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in ("dagster", "mlflow", "dagster_alone", "mlflow_alone"):
            cursor.execute(f"CREATE DATABASE {name}")
    connection.close()


def files_with(home: Path, secret: str) -> list[str]:
    forms = [secret.encode(), quote(secret, safe="").encode()]
    files = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if any(form in path.read_bytes() for form in forms)]


def test_configuration_names_the_variable_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POSTGRES_SWITCH, f"postgresql://tessera:{PASSWORD}@db/dagster")
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("TESSERA_MLFLOW_URI", f"postgresql://tessera:{PASSWORD}@db/mlflow")
    prepare(tmp_path, {"source": "simulator"})
    written = yaml.safe_load((tmp_path / "dagster" / "dagster.yaml").read_text())
    assert written["storage"] == {"postgres": {"postgres_url": {"env": POSTGRES_SWITCH}}}
    assert not files_with(tmp_path, PASSWORD)
    get_settings.cache_clear()
    settings = get_settings()
    assert PASSWORD not in repr(settings)
    assert settings.registry_uri == f"postgresql://tessera:{PASSWORD}@db/mlflow"
    monkeypatch.delenv(POSTGRES_SWITCH)
    prepare(tmp_path, {"source": "simulator"})
    get_settings.cache_clear()
    assert "storage" not in yaml.safe_load((tmp_path / "dagster" / "dagster.yaml").read_text())


def test_registry_out_of_reach_is_one_line_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    with pytest.raises(ArtifactError) as refused:
        Registry(tmp_path, "postgresql://tessera:geheim@127.0.0.1:1/mlflow")
    told = str(refused.value)
    assert told.startswith(
        "the registry postgresql://tessera:***@127.0.0.1:1/mlflow cannot be used: connection"
    )
    assert len(told.splitlines()) == 1
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ArtifactError, match=r"mlflow.db cannot be used: file is not a database"):
        Registry(tmp_path)


def test_runs_and_champion_are_kept_in_postgres(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from orchestration.runs import release_dead_runs

    monkeypatch.setenv(POSTGRES_SWITCH, postgres.url("dagster_alone"))
    prepare(tmp_path, {"source": "simulator"})
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        dead = instance.run_storage.add_run(
            dg.DagsterRun(
                "nightly", run_id="1" * 8 + "-1111" * 3 + "-" + "1" * 12, status=dg.DagsterRunStatus.STARTED
            )
        )
        storage = instance.event_log_storage
        storage.set_concurrency_slots("warehouse", 1)
        assert storage.claim_concurrency_slot("warehouse", dead.run_id, "step").is_claimed
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        release_dead_runs(instance)
        found = instance.get_run_by_id(dead.run_id)
        assert found is not None
        assert found.status == dg.DagsterRunStatus.FAILURE
        assert instance.event_log_storage.claim_concurrency_slot("warehouse", "next", "step").is_claimed
    registry = Registry(tmp_path / "mlflow", postgres.url("mlflow_alone"))
    version = registry.register(tmp_path / "model", {"seed": 0}, {"ndcg@10": 0.1}, {"recipe": "transitions"})
    registry.promote(version.number)
    assert Registry(tmp_path / "mlflow", postgres.url("mlflow_alone")).champion() == version
    assert not list(tmp_path.rglob("*.db"))
    assert not files_with(tmp_path, PASSWORD)


@pytest.mark.slow
def test_nights_on_postgres(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    home = tmp_path / "home"
    simulate(TINY, tmp_path / "landing", tmp_path / "truth")
    days = sorted(date.fromisoformat(path.stem) for path in (tmp_path / "landing" / "events").glob("*.jsonl"))
    switches = {POSTGRES_SWITCH: postgres.url("dagster"), "TESSERA_MLFLOW_URI": postgres.url("mlflow")}
    for day in days:
        land(tmp_path / "landing", home, day)
    with nights(SETTINGS | switches, tmp_path) as run:
        first = run(home, days, "backfill", "retrain", "nightly")
        assert first.wait() == 0, first.log.read_text()[-3000:]
        after = published(home)

        monkeypatch.setenv(POSTGRES_SWITCH, switches[POSTGRES_SWITCH])
        with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
            found = [(run.job_name, run.status.value) for run in instance.get_runs()]
        assert found == [(job, "SUCCESS") for job in ("nightly", "retrain", "backfill")]
        champion = Registry(home / "mlflow", switches["TESSERA_MLFLOW_URI"]).champion()
        assert champion is not None
        assert champion.tags["recipe"] == after["recipe"]
        # Nothing is left to SQLite, and no file holds the password.
        assert not [*(home / "dagster").rglob("*.db"), *(home / "mlflow").rglob("*.db")]
        assert not files_with(home, PASSWORD)

        postgres.stop()
        second = run(home, days, "nightly")
        assert second.wait() == 1, second.log.read_text()[-3000:]
        assert len(second.error().splitlines()) == 1
        for told in (first.log, second.log, second.notes.with_suffix(".error")):
            assert PASSWORD not in told.read_text()
            assert quote(PASSWORD, safe="") not in told.read_text()
        assert published(home) == after
