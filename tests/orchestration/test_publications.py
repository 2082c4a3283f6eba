"""Publications are kept whole, and one of them can be made live again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from champions import choose, night, told
from pydantic import SecretStr
from typer.testing import CliRunner

from ml import bindings
from ml.artifacts import ArtifactError, current, write_text
from ml.bindings import content_hash
from ml.registry import PREVIOUS, Registry, Version
from orchestration import cli, publications
from orchestration.models import read_decision
from orchestration.publications import live, make_live, roll_back
from orchestration.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, keep_publications=2)


def test_what_is_live_is_a_copy_of_its_record(settings: Settings) -> None:
    choose(settings, "first")
    one = night(settings, 1)
    assert told(settings) == one.champion | {"publication": 1}
    assert live(settings) == one
    assert [current(settings.home / name).name for name in ("index", "tries", "recommendations")] == [
        "first1",
        "first",
        "1",
    ]
    assert set(one.bound) == {
        "recommender",
        "catalogue",
        "tokenizer",
        "index",
        "trie",
        "recommendations",
    }
    assert night(settings, 1) == one
    assert [p.number for p in publications.publications(settings)] == [1]
    assert night(settings, 2).number == 2


def test_rollback_brings_back_the_champion_before_and_the_next_night_refreshes_it(settings: Settings) -> None:
    choose(settings, "good")
    night(settings, 1)
    good = night(settings, 2)
    choose(settings, "bad")
    night(settings, 3)
    of_the_home = {"as_of": "2025-03-04T00:00:00+00:00", "newcomers": "newcomers/n", "dim_items": "d"}
    night(settings, 4, **of_the_home)
    publication, trouble = roll_back(settings)
    assert (publication.number, trouble) == (2, None)
    # Its own parts and lists; the time and the catalogue are of the home.
    assert told(settings) == good.champion | {"publication": 2} | of_the_home
    for versions, name in (
        (settings.index, "good2"),
        (settings.tries, "good"),
        (settings.recommendations, "2"),
    ):
        assert current(versions).name == name
    refreshed = night(settings, 5)
    assert (refreshed.number, refreshed.recipe) == (5, "good")
    # What was rolled back is not what the next rollback chooses.
    with pytest.raises(ArtifactError, match="no earlier champion"):
        roll_back(settings)
    assert told(settings)["publication"] == 5


def test_a_publication_can_be_named_and_is_then_taken_in_again(settings: Settings) -> None:
    choose(settings, "a")
    night(settings, 1)
    choose(settings, "b")
    night(settings, 2)
    roll_back(settings)
    assert [p.withdrawn_at is None for p in publications.publications(settings)] == [True, False]
    roll_back(settings, to=2)
    assert (told(settings)["recipe"], read_decision(settings)["recipe"]) == ("b", "b")
    assert [p.withdrawn_at is None for p in publications.publications(settings)] == [True, True]
    with pytest.raises(ArtifactError, match="there is no publication 7: kept are 1, 2"):
        roll_back(settings, to=7)


@pytest.mark.parametrize(
    "name", ["index/a1", "tries/a", "recommendations/1", "models/a/h/full", "snapshots/s"]
)
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_rollback_notices_a_changed_part(settings: Settings, name: str, how: str) -> None:
    choose(settings, "a")
    night(settings, 1)
    choose(settings, "b")
    night(settings, 2)
    before = told(settings)
    if how == "gone":
        shutil.rmtree(settings.home / name)
    else:
        write_text(settings.home / name / "content.json", "other")
    with pytest.raises(ArtifactError, match=rf"{name} (has changed|is missing)") as error:
        roll_back(settings)
    assert "\n" not in str(error.value)
    assert told(settings) == before
    assert read_decision(settings)["recipe"] == "b"


@pytest.mark.parametrize("name", ["models/a/h/full", "tokenizers/t", "snapshots/s", "tries/a"])
def test_publication_notices_a_changed_part(settings: Settings, name: str) -> None:
    choose(settings, "a")
    night(settings, 1)
    before = told(settings)
    write_text(settings.home / name / "content.json", "other")
    with pytest.raises(ArtifactError, match=rf"{name} has changed"):
        night(settings, 2)
    assert told(settings) == before


def test_each_part_is_hashed_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(settings, "a")
    made = night(settings, 1)
    hashed: list[Path] = []

    def counted(folder: Path) -> str:
        hashed.append(folder)
        return content_hash(folder)

    monkeypatch.setattr(bindings, "content_hash", counted)
    assert night(settings, 1) == made
    assert sorted(hashed) == sorted(settings.home / path for path in made.parts.values())


def test_lineage_that_is_gone_does_not_stop_a_rollback(settings: Settings) -> None:
    choose(settings, "a")
    night(settings, 1)
    choose(settings, "b")
    night(settings, 2)
    shutil.rmtree(settings.tokenizers / "t")
    assert roll_back(settings)[0].recipe == "a"


def test_lists_of_a_champion_that_was_rolled_back_meanwhile_are_not_published(settings: Settings) -> None:
    choose(settings, "a")
    night(settings, 1)
    choose(settings, "b")
    b = night(settings, 2).champion
    roll_back(settings)
    with pytest.raises(ArtifactError, match="a became champion while the lists of b were made"):
        make_live(settings, b)


def test_parts_of_the_last_publications_are_kept_and_those_to_roll_back_to(settings: Settings) -> None:
    choose(settings, "a")
    night(settings, 1)
    night(settings, 2)
    choose(settings, "b")
    for number in range(3, 7):
        night(settings, number)
    assert [p.number for p in publications.publications(settings)] == [2, 5, 6]
    assert sorted(path.name for path in settings.recommendations.glob("[0-9]*")) == ["2", "5", "6"]
    assert sorted(path.name for path in settings.tries.glob("?")) == ["a", "b"]
    assert roll_back(settings)[0].number == 2


def test_kill_before_the_last_step_is_mended_by_the_same_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, recipe in enumerate(("a", "b", "c"), start=1):
        choose(settings, recipe)
        night(settings, number)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publications, "_write_live", killed)
    with pytest.raises(KeyboardInterrupt):
        roll_back(settings)
    assert told(settings)["recipe"] == "c"
    monkeypatch.undo()
    assert roll_back(settings)[0].recipe == "b"


def registered(settings: Settings, recipe: str) -> Version:
    tags = {"recipe": recipe, "model": f"models/{recipe}/h"}
    registry = Registry(settings.mlflow, settings.registry_uri)
    return registry.register(settings.models / recipe, {}, {}, tags)


def test_registry_follows(settings: Settings) -> None:
    registry = Registry(settings.mlflow)
    for number, recipe in enumerate(("a", "b"), start=1):
        version = registered(settings, recipe)
        choose(settings, recipe, version.number)
        made = night(settings, number)
        champion = registry.champion()
        assert champion is not None
        assert champion.number == version.number
        assert champion.bound == made.bound
    roll_back(settings)
    champion = registry.champion()
    assert champion is not None
    assert champion.tags["recipe"] == "a"
    assert registry.client.get_model_version_by_alias("recommender", PREVIOUS).tags["recipe"] == "b"


def test_rollback_of_a_champion_that_was_never_served_keeps_what_is(settings: Settings) -> None:
    registry = Registry(settings.mlflow)
    versions = {recipe: registered(settings, recipe).number for recipe in "abc"}
    for number, recipe in enumerate("ab", start=1):
        choose(settings, recipe, versions[recipe])
        night(settings, number)
    before = told(settings)
    # As a promotion leaves it whose index did not reach its recall, say.
    choose(settings, "c", versions["c"])
    registry.promote(versions["c"])
    assert roll_back(settings)[0].number == 2
    assert (told(settings), read_decision(settings)["recipe"]) == (before, "b")
    champion = registry.champion()
    assert champion is not None
    assert champion.number == versions["b"]
    assert all(p.withdrawn_at is None for p in publications.publications(settings))
    assert roll_back(settings)[0].recipe == "a"


def test_rollback_while_the_registry_is_told_has_the_last_word(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(settings.mlflow)
    versions = [registered(settings, name).number for name in "ab"]
    choose(settings, "a", versions[0])
    night(settings, 1)
    choose(settings, "b", versions[1])
    monkeypatch.setattr(Registry, "bind", lambda *_: roll_back(settings))
    night(settings, 2)
    champion = registry.champion()
    assert champion is not None
    assert (champion.tags["recipe"], told(settings)["recipe"]) == ("a", "a")


def test_registry_begun_anew_is_not_told_of_older_publications(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    for number, recipe in enumerate("ab", start=1):
        choose(settings, recipe, registered(settings, recipe).number)
        night(settings, number)
    # Another file: MLflow keeps that of the first open.
    anew = SecretStr(f"sqlite:///{settings.home}/anew.db")
    settings = settings.model_copy(update={"mlflow_uri": anew})
    registry = Registry(settings.mlflow, settings.registry_uri)
    other = registered(settings, "c")
    registry.promote(other.number)
    # What is b's version 2 elsewhere is not there; what is a's version 1 is c.
    night(settings, 3)
    assert "publication 3 is live, the registry was not told" in caplog.text
    publication, trouble = roll_back(settings)
    assert (publication.recipe, told(settings)["recipe"]) == ("a", "a")
    assert trouble == (
        "the registry was not told, its alias stays as it was: "
        "it is another one than this publication's, its version 1 is not models/a/h"
    )
    night(settings, 4)
    assert "its version 1 is not models/a/h" in caplog.text
    champion = registry.champion()
    assert champion is not None
    assert (champion.number, champion.tags, champion.bound) == (other.number, other.tags, {})


def test_registry_out_of_reach(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes, unless the publication was named; and a night goes on."""
    choose(settings, "a", "1")
    write_text(settings.home / "mlflow", "no folder")
    night(settings, 1)
    choose(settings, "b", "2")
    night(settings, 2)
    monkeypatch.setattr("orchestration.settings.get_settings", None)
    monkeypatch.setattr(cli, "get_settings", lambda: settings)
    refused = CliRunner().invoke(cli.app, ["rollback"])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: nothing was changed, the registry sqlite:////")
    assert refused.stderr.rstrip().endswith("go on without the registry by --to 1")
    assert refused.stderr.count("\n") == 1
    assert told(settings)["recipe"] == "b"
    done = CliRunner().invoke(cli.app, ["rollback", "--to", "1"])
    assert (done.exit_code, done.stdout) == (0, "publication 1 is live again, champion is a\n")
    assert "warning: the registry was not told" in done.stderr
    assert told(settings)["recipe"] == "a"


def test_publications_are_listed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(settings, "a")
    night(settings, 1)
    choose(settings, "b")
    night(settings, 2)
    roll_back(settings)
    monkeypatch.setattr(cli, "get_settings", lambda: settings)
    lines = CliRunner().invoke(cli.app, ["publications"]).stdout.splitlines()
    assert [(line.split("\t")[0], line.split("\t")[2], line.split("\t")[-1]) for line in lines] == [
        ("2", "b", "rolled back"),
        ("1", "a", "live"),
    ]
