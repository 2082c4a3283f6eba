from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import snapshots
from benchmarks.logs import read_log
from ml.histories import read_histories
from ml.snapshot import load_snapshot
from ml.vectors import text
from ml.vectors.text import item_text


def packed(path: Path, content: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(content)


def lines(path: Path, objects: list[dict[str, Any]]) -> None:
    packed(path, "".join(json.dumps(line) + "\n" for line in objects))


def test_amazon_2014_keeps_the_order_of_the_file_and_drops_the_root(tmp_path: Path) -> None:
    folder = tmp_path / "amazon-beauty-2014"
    lines(
        folder / "items.jsonl.gz",
        [
            {"item_idx": 1, "asin": "B", "categories": [["Beauty", "Bath"]], "s3rec_attributes": ["Makeup"]},
            {
                "item_idx": 0,
                "asin": "A",
                "title": "Soap &amp; more",
                "categories": [["Beauty", "Hair"], ["Else"]],
                "s3rec_attributes": ["OPI", "Hair"],
            },
        ],
    )
    packed(
        folder / "interactions.csv.gz",
        "user_id,asin,item_idx,pos,timestamp\nv,B,1,0,86400\nu,B,1,0,86400\nu,A,0,1,86400\n",
    )
    log = read_log(folder)
    assert log.user_ids == ["v", "u"]
    assert log.histories.items.tolist() == [1, 1, 0]
    assert log.histories.times.tolist() == [86_400_000_000] * 3
    assert [item["item_id"] for item in log.items] == ["A", "B"]
    assert [item_text(item) for item in log.items] == ["Soap & more. OPI. Hair", "Bath"]


def test_other_logs(tmp_path: Path) -> None:
    folder = tmp_path / "amazon-sports-2014"
    told = [["Ghost", "Hunting", "Unknown"], ["Cycling", "Lights"]]
    lines(
        folder / "items.jsonl.gz",
        [
            {"item_idx": n, "asin": f"s{n}", "s3rec_attributes": a, "idgenrec_text_id": "kit"}
            for n, a in enumerate(told)
        ],
    )
    packed(folder / "interactions.csv.gz", "user_id,asin,item_idx,pos,timestamp\nu,s0,0,0,5\n")
    texts = [item_text(item) for item in read_log(folder).items]
    assert texts == ["Ghost. Hunting. kit", "Cycling, Lights. kit"]

    folder = tmp_path / "amazon-scientific"
    lines(
        folder / "items.jsonl.gz",
        [{"item_idx": 0, "title": "Saw", "brand": "X", "categories": "Industrial & Scientific,Tools, Saws"}],
    )
    lines(folder / "sequences.jsonl.gz", [{"user": "0", "items": [0, 0]}])
    log = read_log(folder)
    assert item_text(log.items[0]) == "Saw. X. Tools, Saws"
    assert log.histories.times.tolist() == [0, 1]

    folder = tmp_path / "ml-100k"
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    packed(folder / "ml-100k.item.gz", header + '10\t"Heat\t1995\tAction unknown\n2\tBabe\t1995\tDrama\n')
    events = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t10\t3\t9\n7\t2\t3\t8\n"
    packed(folder / "ml-100k.inter.gz", events)
    log = read_log(folder)
    assert [item["item_id"] for item in log.items] == ["2", "10"]
    assert log.items[1]["title"] == '"Heat'
    assert log.items[1]["categories"] == ["Action"]
    assert log.histories.items.tolist() == [0, 1]


def test_logs_of_many_event_types_keep_each_once(tmp_path: Path) -> None:
    folder = tmp_path / "deskdrop"
    packed(
        folder / "users_interactions.csv.gz",
        "timestamp,eventType,contentId,personId,sessionId\n"
        "30,LIKE,b,u,1\n10,VIEW,b,u,1\n20,VIEW,a,u,1\n25,VIEW,b,u,1\n5,COMMENT CREATED,a,v,2\n",
    )
    log = read_log(folder)
    assert log.event_types == ["comment", "like", "view"]
    assert [item["item_id"] for item in log.items] == ["a", "b"]
    assert log.user_ids == ["v", "u"]
    assert log.histories.items.tolist() == [0, 1, 0, 1]
    assert [log.event_types[kind] for kind in log.histories.event_types] == [
        "comment",
        "view",
        "view",
        "like",
    ]
    assert (log.histories.times // 1_000_000).tolist() == [5, 10, 20, 30]

    folder = tmp_path / "simulator"
    (folder / "items").mkdir(parents=True)
    (folder / "events").mkdir()
    item = '{{"id":"{}","title":"{}","categories":["c"]}}\n'
    (folder / "items" / "2025-03-01.jsonl").write_text(item.format("y", "Old") + item.format("x", "X"))
    (folder / "items" / "2025-03-02.jsonl").write_text(item.format("y", "New"))
    event = '{{"ts":{},"type":"{}","user":"u","item":"{}"}}\n'
    told = [(2500, "cart", "y"), (1000, "view", "y"), (1500, "impression", "x"), (3000, "view", "x")]
    (folder / "events" / "2025-03-01.jsonl").write_text("".join(event.format(*line) for line in told))
    log = read_log(folder)
    assert log.event_types == ["cart", "view"]
    assert [(item["item_id"], item["title"]) for item in log.items] == [("x", "X"), ("y", "Old")]
    assert log.histories.items.tolist() == [1, 1, 0]
    assert log.histories.event_types.tolist() == [1, 0, 1]
    assert log.histories.times.tolist() == [1_000_000, 2_000_000, 3_000_000]
    snapshots.write_marts(log, tmp_path / "marts")
    _, histories, names = read_histories(tmp_path / "marts" / "user_histories.parquet", ["x", "y"])
    assert [names[kind] for kind in histories.event_types] == ["view", "cart", "view"]


def test_a_snapshot_is_cut_from_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def encode(texts: list[str], *_: object) -> Any:
        import numpy as np

        encoded.append(len(texts))
        return np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)

    monkeypatch.setattr(text, "encode_texts", encode)
    folder, n = tmp_path / "logs" / "amazon-scientific", 40
    folder.parent.mkdir()
    lines(folder / "items.jsonl.gz", [{"item_idx": i, "title": f"t{i}", "categories": "c"} for i in range(n)])
    walks = [[(first + step) % n for step in range(6)] for first in range(n)]
    lines(folder / "sequences.jsonl.gz", [{"user": str(u), "items": row} for u, row in enumerate(walks)])
    arguments = ["amazon-scientific", "--root", str(folder.parent), "--out", str(tmp_path / "out")]
    assert snapshots.main(arguments) == 0
    found = load_snapshot(tmp_path / "out" / "amazon-scientific")
    catalogue = found.catalogue
    assert catalogue.item_ids == sorted(str(i) for i in range(n))
    assert (catalogue.text.shape, catalogue.vectors.shape) == ((n, 8), (n, 8 + 64))
    assert catalogue.codes.shape == (n, 4)
    assert len({tuple(row) for row in catalogue.codes.tolist()}) == n
    for user, row in zip(found.user_ids, range(n), strict=True):
        mine = found.histories.items[found.histories.offsets[row] : found.histories.offsets[row + 1]]
        assert [int(catalogue.item_ids[i]) for i in mine] == walks[int(user)]
    assert found.manifest.recipe["sees_behaviour"] == {"codes": True, "text": False}
    # Nothing is made again.
    assert snapshots.main(arguments) == 0
    assert encoded == [n]
    assert load_snapshot(tmp_path / "out" / "amazon-scientific").manifest.version == found.manifest.version
