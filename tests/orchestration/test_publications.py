"""Publications are kept whole, and one of them can be made live again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from ml import bindings
from ml.artifacts import (
    ArtifactError,
    Manifest,
    current,
    read_json,
    write_json,
    write_manifest,
    write_text,
)
from ml.bindings import bind, content_hash
from ml.registry import PREVIOUS, Registry, Version
from orchestration import cli, publications
from orchestration.models import read_decision, write_decision
from orchestration.publications import live, make_live, roll_back
from orchestration.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, keep_publications=2)


def part(settings: Settings, path: str, content: str | None = None) -> str:
    if not (settings.home / path).exists():
        write_text(settings.home / path / "content.json", content or path)
        write_manifest(settings.home / path, Manifest(kind="part", version=Path(path).name))
    return path


def choose(settings: Settings, recipe: str, version: str | None = None) -> dict[str, Any]:
    parts = {
        "recommender": part(settings, f"models/{recipe}/h/full"),
        "catalogue": part(settings, "snapshots/s"),
        "tokenizer": part(settings, "tokenizers/t"),
    }
    decision = {
        "recipe": recipe,
        "model": parts["recommender"],
        "snapshot": parts["catalogue"],
        "registry_version": version,
        "parts": parts,
        "bound": bind({name: settings.home / path for name, path in parts.items()}),
    }
    write_decision(settings, decision)
    return decision


def night(settings: Settings, number: int, **more: Any) -> publications.Publication:
    """Build and publish for whoever is champion, as the nightly job does."""
    decision = read_decision(settings)
    served = {
        "index": part(settings, f"index/{decision['recipe']}{number}"),
        "trie": part(settings, f"tries/{decision['recipe']}"),
        "recommendations": part(settings, f"recommendations/{number}"),
    }
    champion = {key: decision[key] for key in ("recipe", "model", "snapshot")}
    return make_live(settings, champion | served | {"heuristic": None, "popular": ["i"]} | more)


def told(settings: Settings) -> dict[str, Any]:
    content: dict[str, Any] = read_json(settings.home / "champion.json")
    return content


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


def test_broken_record_is_told_in_one_line(settings: Settings) -> None:
    choose(settings, "a")
    night(settings, 1)
    write_json(settings.publications / "1.json", {"number": 1})
    with pytest.raises(ArtifactError, match=r"publications/1\.json: published_at: Field required"):
        roll_back(settings)


@pytest.mark.parametrize("content", ["", "[]", '{"number": 2}'])
def test_night_passes_over_a_record_that_cannot_be_read(
    settings: Settings, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    choose(settings, "a")
    for number in (1, 2):
        night(settings, number)
    record = settings.publications / "2.json"
    write_text(record, content)
    assert live(settings) is None
    assert publications.is_intact(settings, settings.tries / "a")
    assert night(settings, 3).number == told(settings)["publication"] == 3
    assert f"passed over, and left as it is: {record}" in caplog.text
    # Nobody knows what it needs: as long as it is one of the last, nothing is removed.
    assert [p.number for p in publications.publications(settings)] == [1, 3]
    assert sorted(path.name for path in settings.recommendations.glob("?")) == ["1", "2", "3"]
    night(settings, 4)
    assert sorted(path.name for path in settings.publications.glob("?.json")) == [
        "2.json",
        "3.json",
        "4.json",
    ]
    assert sorted(path.name for path in settings.recommendations.glob("?")) == ["3", "4"]
    assert record.read_text() == content


def test_rollback_does_not_guess_past_a_record_that_cannot_be_read(settings: Settings) -> None:
    settings = settings.model_copy(update={"keep_publications": 5})
    for number, recipe in enumerate("abc", start=1):
        choose(settings, recipe)
        night(settings, number)
    write_text(settings.publications / "1.json", "")
    assert roll_back(settings)[0].number == 2
    assert roll_back(settings, to=3)[0].number == 3
    write_text(settings.publications / "2.json", "")
    before = told(settings)
    with pytest.raises(ArtifactError, match=r"one to go back to: .*/2\.json is not .*; name one by --to$"):
        roll_back(settings)
    with pytest.raises(ArtifactError, match=r"/1\.json is not valid JSON"):
        roll_back(settings, to=1)
    assert (told(settings), read_decision(settings)["recipe"]) == (before, "c")


@pytest.fixture(params=["", "\0\0", "[]", '{"recipe": "b"}', "gone"])
def unreadable(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Return a home of the champions a, then b, whose ``champion.json`` does not say what is live."""
    for number, recipe in enumerate("ab", start=1):
        choose(settings, recipe)
        night(settings, number)
    if request.param == "gone":
        (settings.home / "champion.json").unlink()
    else:
        write_text(settings.home / "champion.json", request.param)
    assert live(settings) is None
    return settings


def test_night_mends_what_is_unreadable(unreadable: Settings) -> None:
    assert night(unreadable, 2).number == 2
    assert (told(unreadable)["recipe"], told(unreadable)["publication"]) == ("b", 2)
    assert night(unreadable, 3).number == 3


@pytest.mark.parametrize("to", [1, 2])
def test_rollback_by_number_mends_what_is_unreadable(unreadable: Settings, to: int) -> None:
    made = roll_back(unreadable, to=to)[0]
    assert told(unreadable) == made.champion | {"publication": to}
    assert read_decision(unreadable)["recipe"] == made.recipe
    assert [p.withdrawn_at is None for p in publications.publications(unreadable)] == [True, to == 2]


def test_rollback_of_what_is_unreadable_restores_what_was_live_last(unreadable: Settings) -> None:
    assert roll_back(unreadable)[0].number == 2
    assert told(unreadable)["recipe"] == "b"
    assert roll_back(unreadable)[0].number == 1
    # Not the newest record: that one was rolled back.
    (unreadable.home / "champion.json").unlink()
    assert roll_back(unreadable)[0].number == 1


def test_unreadable_file_is_told_of_once(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    choose(settings, "a")
    night(settings, 1)
    write_text(settings.home / "champion.json", "")
    roll_back(settings)
    told_of = [record.getMessage() for record in caplog.records]
    assert len(told_of) == 1
    assert told_of[0].startswith(
        f"going on as if it were not there: {settings.home}/champion.json is not valid"
    )
