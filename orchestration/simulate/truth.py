"""The truth behind simulated logs, and how much of it a list of recommendations recovers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestration.simulate.catalogue import FACTORS
from orchestration.simulate.config import SimulationError
from orchestration.simulate.events import World
from orchestration.simulate.write import atomic_file, item_id, user_id

_USERS_AT_ONCE = 1_024  # keeps what is held per user and item or leaf small


@dataclass(frozen=True)
class Truth:
    """What users want at the end of the period, and what items are.

    Parameters
    ----------
    user_ids, item_ids
        Names of the rows.
    interests
        Unit norm, float32 [n_users, FACTORS].
    factors
        Unit norm, float32 [n_items, FACTORS]; the affinity of a user to an item is the inner product of their rows.
    """

    user_ids: list[str]
    item_ids: list[str]
    interests: NDArray[np.float32]
    factors: NDArray[np.float32]


def write_truth(world: World, folder: Path) -> None:
    """Write ``users.parquet`` and ``items.parquet``.

    The users' table has their ``interest`` at the end of the period, the ``favourites`` (paths of leaf categories)
    that it is made of and their ``weights``; the items' table has their ``factors``, ``category`` and ``launch_day``.
    """
    catalogue, users = world.catalogue, world.users
    rows = np.arange(len(users))
    blocks = np.array_split(rows, range(_USERS_AT_ONCE, len(rows), _USERS_AT_ONCE))
    paths = np.array([" > ".join(leaf.path) for leaf in catalogue.leaves])
    _write_table(
        folder / "users.parquet",
        {
            "user_id": [user_id(user) for user in rows.tolist()],
            "interest": _vectors(
                np.concatenate([users.interests(block, 1.0, catalogue) for block in blocks])
            ),
            "favourites": _lists(
                pa.array(paths).take(pa.array(users.favourites.ravel())), users.favourites.shape[1]
            ),
            "weights": _vectors(users.weights(rows, 1.0)),
        },
    )
    _write_table(
        folder / "items.parquet",
        {
            "item_id": [item_id(item) for item in range(len(catalogue))],
            "factors": _vectors(catalogue.factors),
            "category": pa.array(paths).take(pa.array(catalogue.leaf)),
            "launch_day": pa.array(catalogue.launch_day),
        },
    )


def truth_stands(folder: Path) -> bool:
    """Tell whether both tables are there; each of them appears whole or not at all."""
    return all((folder / name).is_file() for name in ("users.parquet", "items.parquet"))


def read_truth(folder: Path) -> Truth:
    """Read what ``write_truth`` left.

    Raises
    ------
    SimulationError
        If a table is missing or unreadable.
    """
    tables = []
    for name, columns in (("users", ["user_id", "interest"]), ("items", ["item_id", "factors"])):
        path = folder / f"{name}.parquet"
        try:
            tables.append(pq.read_table(path, columns=columns))
        except FileNotFoundError:
            raise SimulationError(f"{path} does not exist") from None
        except (OSError, pa.ArrowException) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SimulationError(f"{path} cannot be read: {cause}") from None
    users, items = tables
    return Truth(
        user_ids=users["user_id"].to_pylist(),
        item_ids=items["item_id"].to_pylist(),
        interests=_matrix(users["interest"]),
        factors=_matrix(items["factors"]),
    )


def interest_recovery(
    truth: Path,
    recommendations: Mapping[str, Sequence[str]],
    popular: Sequence[str],
    seed: int = 0,
) -> dict[str, float | int]:
    r"""Measure how much of users' true interests a set of recommendations recovers.

    Let :math:`a_u(i)` be the true affinity of user *u* to item *i* at the end of the period. For a list *L* of *k*
    items, the recovery is

    .. math:: (mean_{i \in L} a_u(i) - mean_i a_u(i)) / (mean of the k largest a_u - mean_i a_u(i))

    with means over *L* and over the whole catalogue: 0 is what random items give on average, 1 the best list there
    is, negative worse than random. It is averaged over the users that have a list. The best list may hold items that
    the user knows already, so recommenders that leave those out stay a little below 1.

    Parameters
    ----------
    truth
        Folder that ``simulate`` wrote the truth to.
    recommendations
        User id to recommended item ids. An item that is repeated counts once; users with an empty list are left out.
    popular
        Item ids, most popular first. Each user is compared with as many of them as the user's own list is long (all
        of them, where there are fewer).
    seed
        Seed of the random lists.

    Returns
    -------
    dict
        ``recommendations``, ``popularity`` and ``chance`` (random lists of the same lengths, without repetition): mean
        recovery; ``users``: over how many.

    Raises
    ------
    SimulationError
        If there is no list, or an id is not of this simulation.
    """
    known = read_truth(truth)
    lists = {user: list(dict.fromkeys(items)) for user, items in recommendations.items() if len(items)}
    if not lists or not popular:
        raise SimulationError(f"there are no recommendations or popular items to compare with {truth}")
    items_at = {name: row for row, name in enumerate(known.item_ids)}
    users_at = {name: row for row, name in enumerate(known.user_ids)}
    try:
        users = np.array([users_at[user] for user in lists])
        recommended = [np.array([items_at[item] for item in items]) for items in lists.values()]
        bestsellers = np.array([items_at[item] for item in popular])
    except KeyError as error:
        raise SimulationError(f"{truth} knows no user or item {error.args[0]!r}") from None
    recovered, popularity, chance = _recovery(known, users, recommended, bestsellers, seed).tolist()
    return {"recommendations": recovered, "popularity": popularity, "chance": chance, "users": len(users)}


def _recovery(
    known: Truth,
    users: NDArray[np.int64],
    recommended: list[NDArray[np.int64]],
    bestsellers: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """Return the mean recovery of the recommended lists, of bestsellers, and of random lists, [3]."""
    rng = np.random.default_rng(seed)
    lengths = np.array([len(items) for items in recommended])
    factors = known.factors.T.astype(np.float64)
    totals = np.zeros(3)
    for first in range(0, len(users), _USERS_AT_ONCE):
        block = slice(first, first + _USERS_AT_ONCE)
        affinity = known.interests[users[block]].astype(np.float64) @ factors
        chance = affinity.mean(axis=1)
        span = _mean_of_largest(affinity, lengths[block]) - chance
        # A list of the whole catalogue is the best and the average one at once: it recovers nothing.
        span[span < 1e-9] = np.inf
        for row, mine in enumerate(recommended[block]):
            drawn = rng.choice(len(factors.T), len(mine), replace=False, shuffle=False)
            means = [affinity[row, items].mean() for items in (mine, bestsellers[: len(mine)], drawn)]
            totals += (np.array(means) - chance[row]) / span[row]
    return totals / len(users)


def _mean_of_largest(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each row the mean of its ``lengths[row]`` largest values."""
    k = int(lengths.max())
    largest = -np.sort(-np.partition(values, values.shape[1] - k, axis=1)[:, -k:], axis=1)
    sums = np.cumsum(largest, axis=1)
    return sums[np.arange(len(values)), lengths - 1] / lengths


def _vectors(rows: NDArray[np.float32]) -> pa.Array:
    return _lists(pa.array(rows.ravel()), rows.shape[1])


def _lists(values: pa.Array, width: int) -> pa.Array:
    offsets = pa.array(np.arange(0, len(values) + 1, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, values)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, FACTORS)


def _write_table(path: Path, columns: dict[str, object]) -> None:
    with atomic_file(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")
