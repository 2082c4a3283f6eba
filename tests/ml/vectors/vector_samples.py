"""A tiny encoder and small marts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

START = datetime(2025, 3, 1, tzinfo=UTC)
WORDS = [
    "soap",
    "cream",
    "lotion",
    "brush",
    "comb",
    "towel",
    "drill",
    "saw",
    "hammer",
    "nail",
    "screw",
    "bolt",
    "query",
    "passage",
    ":",
    "red",
    "blue",
    "green",
]


def make_encoder(folder: Path, prompts: dict[str, str] | None = None) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizer

    raw = folder.with_name(f"{folder.name}-bert")
    raw.mkdir()
    (raw / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(raw / "vocab.txt")).save_pretrained(raw)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=5 + len(WORDS), max_position_embeddings=32, **shape)
        BertModel(config).save_pretrained(raw)
    model = SentenceTransformer(modules=[Transformer(str(raw)), Pooling(16)], prompts=prompts, device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


def write_marts(
    folder: Path,
    events: list[tuple[str, int, str, int]],
    more_items: list[str],
    titles: dict[str, str] | None = None,
) -> Path:
    """Write the marts of events (user, position, item, hour); items without a title have no text."""
    folder.mkdir()
    hours = [START + timedelta(hours=event[3]) for event in events]
    columns = {
        "user_id": [event[0] for event in events],
        "position": pa.array([event[1] for event in events], pa.int32()),
        "item_id": [event[2] for event in events],
        "event_type": ["view"] * len(events),
        "event_ts": pa.array(hours, pa.timestamp("us", tz="UTC")),
        "value": pa.nulls(len(events), pa.float64()),
    }
    pq.write_table(pa.table(columns), folder / "user_histories.parquet")
    items = sorted({event[2] for event in events} | set(more_items))
    known = {"item_id": items, "title": [(titles or {}).get(item) for item in items]}
    types = {
        "item_id": pa.string(),
        "title": pa.string(),
        "description": pa.string(),
        "brand": pa.string(),
        "categories": pa.list_(pa.string()),
        "attributes": pa.map_(pa.string(), pa.string()),
    }
    table = {
        name: pa.array(known[name], kind) if name in known else pa.nulls(len(items), kind)
        for name, kind in types.items()
    }
    pq.write_table(pa.table(table), folder / "dim_items.parquet")
    return folder
