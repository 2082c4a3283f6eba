"""``python -m orchestration``: what the Makefile calls."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestration import home as homes
from orchestration.settings import get_settings, home_from_environment

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
# Bound to the terminal now: while stages run, sys.stdout is a log file.
_keys = typer.Typer(no_args_is_help=True, help="API keys of the service: add, list, remove.")
app.add_typer(_keys, name="keys")
_console = Console(file=sys.stdout, soft_wrap=True)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """End with code 1 and one line on standard error for a mistake that a person can mend."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        # Imported only now: they bring Dagster, and a rollback must not wait for that.
        from orchestration.demo import ChainError
        from orchestration.failures import USER_ERRORS

        if isinstance(error, (ChainError, *USER_ERRORS)):
            told = str(error)
        elif isinstance(error, OSError):
            told = f"{error.filename or home_from_environment()}: {error.strerror or error}"
        else:
            raise
        typer.echo(f"error: {told}", err=True)
        raise typer.Exit(1) from None


@app.command()
def demo(
    source: Annotated[
        str, typer.Option(help="A source in orchestration/sources, or a YAML of your own.")
    ] = "simulator",
    data: Annotated[Path | None, typer.Option(help="Folder of the landing files.")] = None,
) -> None:
    """Run the whole chain, logs to recommendations, and print what came of it."""
    from orchestration.demo import run_demo

    with _one_line_errors():
        run_demo(source, data, _console)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on the loopback interface.")] = 3000) -> None:
    """Open Dagster's web UI, with the daemon for schedules and sensors, on the state of this home."""
    import dagster as dg

    from orchestration.runs import only_run, release_dead_runs

    with _one_line_errors():
        settings = get_settings()
        remember = {"source": settings.source, "data": settings.data, "clock": settings.clock}
        with homes.only_one(settings.home):
            homes.prepare(settings.home, remember)
            with only_run(settings.home):
                release_dead_runs(dg.DagsterInstance.get())
            command = [
                "dagster",
                "dev",
                "-m",
                "orchestration.definitions",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
            ]
            raise typer.Exit(subprocess.run([sys.executable, "-m", *command], check=False).returncode)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port.")] = 8080,
    host: Annotated[
        str | None, typer.Option(help="Address; by default TESSERA_HOST, else loopback. Others need keys.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the port.", min=1)] = 1,
) -> None:
    """Serve recommendations of this home over HTTP."""
    # Requests are answered side by side by threads; more threads within one only stand in each other's way. To be
    # said before torch and faiss are loaded. numpy is there already, and threads of its BLAS spin when they wait.
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    import uvicorn
    from threadpoolctl import threadpool_limits

    from orchestration.keys import check_binding
    from serving.logs import LOG_CONFIG

    if host is not None:
        os.environ["TESSERA_HOST"] = host
    with _one_line_errors():
        settings = get_settings()
        service = check_binding(settings.home)
    if threads.isdecimal():
        threadpool_limits(int(threads))
    uvicorn.run(
        "serving.app:create_app_from_env",
        factory=True,
        host=service.host,
        port=port,
        workers=workers,
        log_config=LOG_CONFIG,
        access_log=False,
        server_header=False,
        # Requests under way are finished; none takes longer than this.
        timeout_graceful_shutdown=math.ceil(service.request_timeout) + 1,
    )


@app.command()
def rollback(
    to: Annotated[
        int | None, typer.Option(help="Number of a publication; see the command publications.")
    ] = None,
) -> None:
    """Make an earlier publication live again: by default that of the champion before this one. Nothing is trained."""
    from orchestration.publications import roll_back

    with _one_line_errors():
        publication, trouble = roll_back(get_settings(), to)
        typer.echo(f"publication {publication.number} is live again, champion is {publication.recipe}")
        if trouble is not None:
            typer.echo(f"warning: {trouble}", err=True)


@app.command()
def publications() -> None:
    """List the publications that are kept, newest first."""
    from orchestration.publications import live, publications

    with _one_line_errors():
        settings = get_settings()
        now = live(settings)
        for one in reversed(publications(settings)):
            state = "live" if now is not None and one.number == now.number else ""
            state = state or ("rolled back" if one.withdrawn_at is not None else "")
            typer.echo(
                f"{one.number}\t{one.published_at:%Y-%m-%d %H:%M} UTC\t{one.recipe}\t"
                f"version {one.registry_version or '-'}\t{one.champion['recommendations']}\t{state}".rstrip()
            )


@app.command()
def erase(
    users: Annotated[
        list[str] | None, typer.Argument(help="Ids of users; none finishes what was killed.")
    ] = None,
) -> None:
    """Erase users from every file of this home, and never take them in again."""
    from orchestration.privacy.command import erase as erase_users

    with _one_line_errors():
        erase_users(users or [], _console)


@app.command()
def withdraw(items: Annotated[list[str], typer.Argument(help="Ids of items.")]) -> None:
    """Withdraw items: the service answers with them no more from its next request on, nor do tomorrow's lists."""
    from orchestration.withdraw import withdraw as withdraw_items

    with _one_line_errors():
        withdraw_items(get_settings(), items)
        typer.echo(f"withdrawn: {', '.join(items)}")


@app.command()
def restore(items: Annotated[list[str], typer.Argument(help="Ids of items.")]) -> None:
    """Serve items again that were withdrawn."""
    from orchestration.withdraw import restore as restore_items

    with _one_line_errors():
        restore_items(get_settings(), items)
        typer.echo(f"restored: {', '.join(items)}")


@_keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    scope: Annotated[str, typer.Option(help="read, or write (which may read as well).")] = "read",
) -> None:
    """Make a key and print it, this once; only its hash is kept."""
    from orchestration.keys import add

    with _one_line_errors():
        typer.echo(add(get_settings().home, name, scope))


@_keys.command("list")
def list_keys() -> None:
    """Print name, scope and date of every key."""
    from serving.keys import KeyFile

    with _one_line_errors():
        for key in KeyFile(get_settings().home).all():
            typer.echo(f"{key.name}\t{key.scope}\t{key.created:%Y-%m-%d}")


@_keys.command("remove")
def remove_key(name: Annotated[str, typer.Argument(help="Whose.")]) -> None:
    """Take a key away; it is refused from the next request on."""
    from serving.keys import KeyFile

    with _one_line_errors():
        KeyFile(get_settings().home).remove(name)
