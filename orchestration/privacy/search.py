"""Where a user's id stands: in the columns of Parquet files, and in the bytes of all others."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

USER = "user_id"
KEY = "key"  # of Feast's lists of what is online
TEXTS = ("raw", "detail")  # of a quarantined row: the line as it landed, and what was wrong with it
_SHORTEST = 6
_CHUNK = 1 << 22


def is_distinctive(user: str) -> bool:
    """Tell whether bytes that read like an id are most probably that id; ``42`` stands in every other file."""
    return len(user) >= _SHORTEST and not user.isdigit()


def as_word(users: Collection[str]) -> str:
    """Return a regular expression that finds any of the ids where it does not go on as a longer word."""
    found = "|".join(re.escape(user) for user in sorted(users, key=len, reverse=True))
    return rf"(?:^|\W)(?:{found})(?:$|\W)"


def mentions(path: Path, users: Collection[str]) -> bool:
    """Tell whether a file's bytes hold one of the ids as a word."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(as_word(users).encode(), content) is not None


def landed_mentions(path: Path, users: Collection[str]) -> bool:
    """Tell whether a landed file, compressed or not, holds one of the ids as a word."""
    if path.suffix == ".parquet":
        columns = pq.read_table(path).columns
        texts = [column for column in columns if pa.types.is_string(column.type)]
        found = (pc.match_substring_regex(column, pattern=as_word(users)) for column in texts)
        return any(pc.any(rows, min_count=0).as_py() for rows in found)
    pattern, rest = re.compile(as_word(users).encode()), b""
    overlap = 2 + max(len(user.encode()) for user in users)
    with pa.input_stream(str(path), compression="detect") as stream:
        while chunk := stream.read(_CHUNK):
            if pattern.search(rest + chunk):
                return True
            rest = (rest + chunk)[-overlap:]
    return False


def holds_bytes(path: Path, users: Collection[str]) -> bool:
    """Tell whether a file's bytes hold one of the ids, in whatever surroundings: a page of a database, say."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(user.encode()) >= 0 for user in users)


def concerns(table: pa.Table, users: Collection[str]) -> pa.Array:
    """Return which rows of a table are about one of the users: bool [rows], without nulls.

    A row is, if it bears the id in a column of ids, or names it in a column of landed text.
    """
    about = pa.chunked_array([pa.array([False] * table.num_rows)])
    wanted = pa.array(sorted(users), pa.string())
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        if name in (USER, KEY):
            about = pc.or_(about, pc.is_in(column.cast(pa.string()), value_set=wanted))
        elif name in TEXTS:
            found = pc.match_substring_regex(column, pattern=as_word(users))
            about = pc.or_(about, pc.fill_null(found, False))
    return about.combine_chunks()


def parquet_concerns(path: Path, users: Collection[str]) -> bool:
    """Tell whether a Parquet file holds a row about one of the users; reads what columns that takes."""
    names = [name for name in pq.read_schema(path).names if name in (USER, KEY, *TEXTS)]
    if not names:
        return False
    return bool(pc.any(concerns(pq.read_table(path, columns=names), users), min_count=0).as_py())


def files_below(folder: Path, but: Collection[Path] = ()) -> Iterator[Path]:
    """Yield every file below a folder, in order, except those below some folders."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not any(path.is_relative_to(other) for other in but):
            yield path


def held_by(path: Path, users: Collection[str]) -> bool:
    """Tell whether a file holds a user.

    Of a Parquet file the columns are read. Of any other, the bytes are searched for ids that are distinctive.
    """
    if path.suffix == ".parquet":
        return parquet_concerns(path, users)
    known = [user for user in users if is_distinctive(user)]
    return bool(known) and holds_bytes(path, known)
