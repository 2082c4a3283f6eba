"""A small engine whose every answer is known beforehand, and a service over it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from ml.artifacts import write_json
from ml.histories import Histories
from serving.app import create_app
from serving.engine import Engine
from serving.features import History, UserFeatures
from serving.items import ItemFacts
from serving.settings import ServiceSettings

NOW = datetime(2025, 3, 31, tzinfo=UTC)
N = 12
ITEMS = [f"i{n}" for n in range(N)]
CATEGORIES = [["shop", "tea" if n % 2 else "cup"] for n in range(N)]
ANGLES = np.arange(N) * np.pi / N
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
"""A half circle: the nearer the number, the more alike; cosine cos(difference * 15 degrees)."""
CODES = np.array([[n // 6, n // 3, n] for n in range(N)], np.int32)


class Ahead:
    """Recommends the items that come after the last one, in order, around the circle."""

    def __init__(self, step: int = 1) -> None:
        self.step = step
        self.asked: list[int] = []

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        self.asked.append(k)
        shown = histories.items.tolist()
        best = [(shown[-1] + self.step * n) % N for n in range(1, N + 1)]
        if exclude_history:
            best = [item for item in best if item not in shown]
        items = np.full((1, k), -1, np.int32)
        scores = np.full((1, k), -np.inf, np.float32)
        items[0, : len(best)] = best[:k]
        scores[0, : len(best)] = -np.arange(len(best[:k]))
        return items, scores

    def query_vectors(self, histories: Histories) -> None:
        return None


class Broken(Ahead):
    def recommend(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("secret detail")


class Searching:
    """A search over a function, without filters."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.search = answer

    def prepare(self, mask: NDArray[np.bool_]) -> None:
        raise AssertionError("no filter is expected")


class Known:
    users: ClassVar = {"ann": ["i1", "i2"], "all": ITEMS}

    def user(self, user_id: str) -> UserFeatures:
        items = self.users.get(user_id)
        if items is None:
            return UserFeatures(user_id, absent={"user_history": "unknown"})
        history = History(items, ["view"] * len(items), list(range(len(items))), len(items))
        return UserFeatures(user_id, history, history_age=timedelta(hours=2))


def encode(text: str) -> NDArray[np.float32]:
    """Read a number, and return the direction of that item."""
    return VECTORS[int(text) % N] if text.isdigit() else VECTORS[0]


def planted_engine(**parts: Any) -> Engine:
    facts = ItemFacts(
        categories=CATEGORIES,
        in_stock=np.arange(N) >= 6,
        vectors=VECTORS,
        text=VECTORS,
        codes=CODES,
        latest=list(range(N))[::-1],
    )
    made: dict[str, Any] = {
        "champion": Ahead(),
        "lookup": Known(),
        "item_ids": ITEMS,
        "titles": [f"Tea {n}" for n in range(N)],
        "event_types": ["cart", "view"],
        "popular": ["i7", "i1", "gone", "i4"],
        "versions": {"recipe": "toy"},
        "facts": facts,
        "encode": encode,
        "clock": lambda: NOW,
    }
    return Engine(**made | parts)


class Held:
    """Holds one engine, whatever is published, and however it does."""

    stale = ""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self) -> Engine:
        return self._engine


def service(home: Path, engine: Engine | None = None, **switches: Any) -> TestClient:
    """Return a client of a service over an engine; ``with`` is not needed."""
    write_json(home / "champion.json", {"recipe": "toy", "model": "m", "snapshot": "s"})
    app = create_app(home, lambda _: planted_engine(), ServiceSettings(**switches))
    app.state.holder = Held(engine or planted_engine())
    return TestClient(app, raise_server_exceptions=False)


def ids(answer: Any) -> list[str]:
    items = answer["items"] if isinstance(answer, dict) else answer.items
    return [item["item_id"] if isinstance(item, dict) else item.item_id for item in items]
