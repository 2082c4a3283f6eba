"""Files of publications that cannot be read: told in one line, guessed about never, mended by the next night."""

from __future__ import annotations

from pathlib import Path

import pytest
from champions import choose, night, told

from ml.artifacts import ArtifactError, write_json, write_text
from orchestration import publications
from orchestration.models import read_decision
from orchestration.publications import live, roll_back
from orchestration.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, keep_publications=2)


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
