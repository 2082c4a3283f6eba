from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.run_queue import QUEUE, main, waiting

RUN = """title: T
needs: [{needs}]
command: python -c "from pathlib import Path; Path('{out}').write_text('x'); raise SystemExit({code})"
writes: {writes}
"""


def put(queue: Path, name: str, needs: str = "", code: int = 0, writes: str | None = None) -> Path:
    out = queue / f"{name}.json"
    path = queue / f"{name}.yaml"
    path.write_text(RUN.format(needs=needs, out=out, code=code, writes=writes or out))
    return path


def test_what_is_done_is_moved_and_what_is_not_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = put(tmp_path, "good")
    lacking = put(tmp_path, "lacking", needs=str(tmp_path / "nowhere"))
    failing = put(tmp_path, "failing", code=3)
    silent = put(tmp_path, "silent", writes=str(tmp_path / "other.json"))
    assert main(["--cpu", "--queue", str(tmp_path)]) == 1
    assert not good.exists()
    assert (tmp_path / "done" / "good.yaml").is_file()
    assert all(path.exists() for path in (lacking, failing, silent))
    told = capsys.readouterr().err
    assert f"lacking: needs {tmp_path / 'nowhere'}" in told
    assert "failing: ended with 3" in told
    assert "silent: did not write" in told
    assert not (tmp_path / "lacking.json").exists()


def test_only_those_that_are_named(tmp_path: Path) -> None:
    first, second = put(tmp_path, "first"), put(tmp_path, "second")
    assert main(["second", "--cpu", "--queue", str(tmp_path)]) == 0
    assert (first.exists(), second.exists()) == (True, False)


@pytest.mark.parametrize(
    ("content", "arguments", "told"),
    [
        ("title: T\ncommand: c\nwrites: w\nextra: 1\n", [], "is no run"),
        ("title: T\ncommand: c\nwrites: w\n", ["other"], "nothing called 'other' waits; waiting: one"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, content: str, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.yaml").write_text(content)
    with pytest.raises(SystemExit):
        main([*arguments, "--cpu", "--queue", str(tmp_path)])
    assert told in capsys.readouterr().err


def test_the_queue_of_the_project_can_be_read() -> None:
    for path, asked in waiting().items():
        assert asked.writes.parent.parts[:2] == ("benchmarks", "results"), path
        assert path.parent == QUEUE
