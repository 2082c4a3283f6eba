"""A training snapshot of a public log without the whole chain: ``python -m benchmarks.snapshots NAME --root DATASETS --out FOLDER``.

Everything is made as the chain makes it by default, and by the same functions: text vectors by the carried encoder,
behaviour by PPMI-SVD of the training events, both fused, and semantic IDs by the default tokenizer. Only the marts are
written straight from the log's own files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.logs import LOGS, Log, read_log
from ml.artifacts import publish, read_manifest
from ml.snapshot import write_snapshot
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer
from ml.tokenizers.recipes import load_tokenizer_recipe
from ml.vectors.behaviour import update_behaviour_vectors
from ml.vectors.fused import update_fused_vectors
from ml.vectors.text import update_text_vectors
from orchestration.semantic_ids import code_size, read_items
from orchestration.settings import Settings
from orchestration.simulate import SimulationConfig, simulate

#: The simulated shop that recommenders are compared on.
SHOP = SimulationConfig(
    users=3_000, items=2_000, events=120_000, late=0, duplicated=0, out_of_order=0, broken=0
)
DEFAULT = str(Settings.model_fields["tokenizer"].default)
_ITEM_SCHEMA = pa.schema(
    {name: pa.string() for name in ("item_id", "title", "description", "brand")}
    | {"categories": pa.list_(pa.string()), "attributes": pa.map_(pa.string(), pa.string())}
)


def cut(folder: Path, work: Path, tokenizer: str = DEFAULT) -> Path:
    """Cut a snapshot of a log; what ``work`` holds already is used as it is.

    Parameters
    ----------
    folder
        A log; its name is one of `benchmarks.logs.LOGS`.
    work
        A home (`orchestration.settings.Settings`) for what is made on the way.
    tokenizer
        Recipe of the semantic IDs.

    Returns
    -------
    The snapshot, ``work/snapshots/HASH``.
    """
    settings = Settings(home=work, tokenizer=tokenizer, data=None)
    write_marts(read_log(folder), settings.marts)
    items = settings.marts / "dim_items.parquet"
    text = update_text_vectors(items, settings.vectors / "text")
    behaviour = update_behaviour_vectors(settings.marts, settings.vectors / "behaviour", seed=settings.seed)
    fused = update_fused_vectors(items, {"behaviour": behaviour, "text": text}, settings.vectors / "fused")
    known = read_items(settings)
    recipe = load_tokenizer_recipe(tokenizer)
    params = recipe.params
    if "code_size" in params:
        room = code_size(int(known.known(params.get("input", "fused")).sum()))
        params["code_size"] = min(params["code_size"], room)
    inputs = {"vectors": fused.name}
    fitted = fit_tokenizer(known, recipe.kind, params, settings.seed, inputs, settings.tokenizers)
    ids = assign_semantic_ids(fitted, known, None, settings.semantic_ids, inputs)
    return write_snapshot(settings.marts, ids, fused, settings.snapshots, text)


def of_tokenizer(snapshot: Path, tokenizer: str | None) -> Path:
    """Return where the same log with the semantic IDs of a tokenizer's recipe is; None stands for the default one."""
    own = tokenizer is None or tokenizer == DEFAULT
    return snapshot if own else snapshot.with_name(f"{snapshot.name}@{tokenizer}")


def write_marts(log: Log, marts: Path) -> None:
    """Write the two marts that vectors and snapshots read, sorted as the warehouse sorts them."""
    marts.mkdir(parents=True, exist_ok=True)
    items = sorted(log.items, key=lambda item: str(item["item_id"]))
    rows = [{name: item.get(name) for name in _ITEM_SCHEMA.names} for item in items]
    for row in rows:
        row["attributes"] = list((row["attributes"] or {}).items())
    pq.write_table(pa.Table.from_pylist(rows, _ITEM_SCHEMA), marts / "dim_items.parquet")
    order = np.argsort(np.array(log.user_ids), kind="stable")
    histories = log.histories.rows(order)
    ids = np.array([item["item_id"] for item in log.items], dtype=object)
    place = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], histories.lengths)
    events = {
        "user_id": pa.array([log.user_ids[u] for u in order[histories.users]], pa.string()),
        "position": pa.array(place + 1, pa.int64()),
        "item_id": pa.array(ids[histories.items], pa.string()),
        "event_type": pa.array([log.event_types[kind] for kind in histories.event_types], pa.string()),
        "event_ts": pa.array(histories.times, pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(events), marts / "user_histories.parquet")


def simulated(work: Path) -> Path:
    """Simulate the shop that is a benchmark, and return the folder of its logs; those that stand are left as they are.

    Nothing in them is late, repeated or broken: what ingestion does about that is measured elsewhere.
    """
    folder = work / "simulator"
    simulate(SHOP, folder, work / "truth")
    return folder


def main(argv: list[str] | None = None) -> int:
    """Cut and print where; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshots", description=__doc__)
    parser.add_argument("datasets", nargs="+", choices=sorted(LOGS), metavar="NAME", help=", ".join(LOGS))
    parser.add_argument(
        "--root", type=Path, default=os.environ.get("TESSERA_DATASETS"), help="where the logs are"
    )
    parser.add_argument("--out", type=Path, required=True, help="the snapshot becomes FOLDER/NAME")
    parser.add_argument("--work", type=Path, help="keeps what is made on the way; FOLDER/.work by default")
    parser.add_argument(
        "--tokenizer", default=DEFAULT, help=f"another than {DEFAULT} makes FOLDER/NAME@TOKENIZER"
    )
    options = parser.parse_args(argv)
    if options.root is None and set(options.datasets) != {"simulator"}:
        parser.error("say where the logs are: --root, or TESSERA_DATASETS")
    for name in options.datasets:
        work = (options.work or options.out / ".work") / name
        folder = simulated(work) if name == "simulator" else Path(options.root) / name
        made = cut(folder, work.resolve(), options.tokenizer)
        target = of_tokenizer(options.out / name, options.tokenizer)
        with publish(target) as staging:
            shutil.copytree(made, staging, dirs_exist_ok=True)
        told = read_manifest(made).metrics
        counted = f"{told['users']} users, {told['items']} items, {told['events']} events"
        sys.stdout.write(f"{target}: snapshot {made.name}, {counted}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
