from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.ingest.errors import IngestError
from orchestration.ingest.lines import LineFile, header_names


def read(
    path: Path, limit: int = 1000, block: int = 1 << 24, header: bool = False
) -> list[tuple[int, int, bytes]]:
    file = LineFile(path, path.name, header=header, max_line_bytes=limit, block=block)
    batches = [batch.to_pylist() for batch in file.reader()]
    rows = [(r["row"], r["size"], r["line"].removesuffix(b"\n")) for batch in batches for r in batch]
    assert file.rows == len(rows)
    return rows


def by_hand(data: bytes) -> list[tuple[int, int, bytes]]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [(n, len(line), line) for n, line in enumerate(lines, 1) if line not in (b"", b"\r")]


@given(
    data=st.lists(
        st.sampled_from([b"\n", b"\r", b"a", b"bc", b"\xff", b"\xc3\xa9", b"\x00"]), max_size=40
    ).map(b"".join),
    block=st.integers(3, 12),
)
def test_lines_are_those_between_line_feeds(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, block: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x"
    path.write_bytes(data)
    assert read(path, block=block) == by_hand(data)


def test_endless_line_is_cut_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"first\n" + b"a" * 5000 + b"\nlast")
    first, cut, last = read(tmp_path / "x", limit=100, block=64)
    assert first == (1, 5, b"first")
    assert last == (3, 4, b"last")
    assert cut[:2] == (2, 5000)
    assert 100 < len(cut[2]) < 400


def test_byte_order_mark_and_header(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\n")
    file = LineFile(tmp_path / "x", "x", header=True, max_line_bytes=100, block=4)
    assert file.header_line == "a,b"
    assert [r["line"] for batch in file.reader() for r in batch.to_pylist()] == [b"1,2\n"]


def test_header_names() -> None:
    assert header_names('a,"b,c",d', ",", quoted=True) == ("a", "b,c", "d")
    assert header_names('a::"b', "::", quoted=False) == ("a", '"b')


def test_members_of_a_gz_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    assert read(tmp_path / "x.gz") == [(1, 1, b"a"), (2, 1, b"b")]


def test_zstd(tmp_path: Path) -> None:
    (tmp_path / "x.zst").write_bytes(pa.Codec("zstd").compress(b"a\nb", asbytes=True))
    assert read(tmp_path / "x.zst") == [(1, 1, b"a"), (2, 1, b"b")]


@pytest.mark.parametrize("cut", [4, 9, 200])
def test_a_gz_cut_anywhere_is_noticed(tmp_path: Path, cut: int) -> None:
    data = gzip.compress(b"".join(b"line %d\n" % n for n in range(1000)))
    (tmp_path / "x.gz").write_bytes(data[:-cut])
    with pytest.raises(Exception, match="Truncated"):
        read(tmp_path / "x.gz")


def test_a_gz_with_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b"line\n" * 1000))
    data[-6] ^= 1
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(IngestError, match=r"^cannot read x\.gz: .*incorrect data check"):
        LineFile(tmp_path / "x.gz", "x.gz", header=True, max_line_bytes=100)
