"""``python -m orchestration erase``: the job ``erase_users`` in this process, with a line per stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from orchestration import home as homes
from orchestration import privacy
from orchestration.demo import ChainError, cause_of, noise_to, told_in_one_line
from orchestration.settings import SettingsError, get_settings

LOG = "erase.log"


def erase(users: Sequence[str], console: Console) -> None:
    """Erase users from the home, or finish an erasure that was killed, and say what is left to do.

    Raises
    ------
    ChainError
        If a stage fails; the same command goes on from there.
    SettingsError, PrivacyError
        If there is no such home, if it is at work, or if nobody is named and nothing waits.
    """
    settings = get_settings()
    if not settings.dagster_home.is_dir():
        raise SettingsError(f"{settings.home} does not exist, or nothing ever ran in it")
    log = settings.dagster_home / LOG
    with homes.only_one(settings.home):
        privacy.request(settings, users)
        with noise_to(log), told_in_one_line(settings.home, log):
            import dagster as dg

            from orchestration.definitions import defs
            from orchestration.progress import ProgressHandler
            from orchestration.runs import only_run, release_dead_runs

            ProgressHandler.console = console
            instance = dg.DagsterInstance.get()
            with only_run(settings.home):
                release_dead_runs(instance)
                result = (
                    defs()
                    .resolve_job_def("erase_users")
                    .execute_in_process(
                        instance=instance, run_config={"loggers": {"progress": {}}}, raise_on_error=False
                    )
                )
            if not result.success:
                raise ChainError(cause_of(result) or f"erase_users failed; see {log}")
    _say(console, result.output_for_node("verify_erasure"))


def _say(console: Console, found: dict[str, int | bool]) -> None:
    """Print what came of it."""
    if not found["known"]:
        console.print("nobody of that name is in this home; recorded, so that no later file brings them in")
    if found["landing_files"]:
        console.print(
            f"{found['landing_files']} landing files still hold them: they belong to whoever put them there, who "
            "must delete them; what is ingested from them holds these users no more"
        )
    if found["models"]:
        console.print(
            "models that were trained before keep what they learned of these users until the next `retrain`"
        )
