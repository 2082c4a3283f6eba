"""The latent catalogue: items in a taxonomy, placed in a factor space that drives what simulated users do.

An item's factors are the normalised sum of fixed random directions for its department, category, leaf, style,
material, colour and brand, and of a little noise. Its text names exactly those things. On top stands a graph of
successors (what is looked at next), which text and popularity explain only in part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestration.simulate.config import SimulationConfig
from orchestration.simulate.vocabulary import COLOURS, LEAVES, MATERIALS, STYLES, TIERS, Leaf

FACTORS = 32
SUCCESSORS = 8
BRANDS_PER_DEPARTMENT = 6
DEPARTMENTS = tuple(dict.fromkeys(leaf.path[0] for leaf in LEAVES))
_ZIPF = 1.0  # exponent of item popularity
_LAUNCHED_LATER = 0.15  # share of items launched within the period
_REPRICED = 0.1  # share of items whose price changes once within the period
_NOVELTY_DAYS = 3.0  # e-folding time of the attention that a launch gets
_DRAWS = 12  # candidates among which a successor is the best
_BLOCK = 2_000  # items whose successors are sought at a time
_SLOT_PARTNERS = np.array(
    [0, 1, 1, 2, 0, 1, 2, 3]
)  # which partner leaf each successor comes from; 0 is the own


@dataclass(frozen=True)
class Shelf:
    """What the catalogue looks like on one day.

    Parameters
    ----------
    cumulative
        Running sum of attention over the items in ``Catalogue.by_leaf`` order, float64 [n_items + 1].
    available
        Whether an item has been launched, bool [n_items].
    prices
        float64 [n_items].
    """

    cumulative: NDArray[np.float64]
    available: NDArray[np.bool_]
    prices: NDArray[np.float64]


@dataclass(frozen=True)
class Catalogue:
    """All items of a simulation, launched or not; item ``i`` is row ``i`` of every array.

    Parameters
    ----------
    leaves
        The leaf categories in use.
    leaf, style, material, colour, brand, model
        Index into ``leaves`` and into the words of the vocabulary, int16 [n_items]; ``brand`` counts over all
        departments, ``material`` within one.
    factors
        Position in latent space, unit norm, float32 [n_items, FACTORS].
    leaf_factors, style_factors, colour_factors, brand_factors
        The directions, float32 [n, FACTORS].
    popularity
        Attention an item gets before novelty, float64 [n_items].
    launch_day, reprice_day
        Day of the period, int32 [n_items]; launch 0 is before the period, reprice -1 is never.
    listed_before
        How long before the period an initial item was listed, in ms, int64 [n_items].
    price, new_price
        Before and after the day of repricing, float64 [n_items].
    by_leaf
        Items ordered by leaf, int32 [n_items].
    leaf_offsets
        Leaf ``l`` holds ``by_leaf[leaf_offsets[l]:leaf_offsets[l + 1]]``, int64 [n_leaves + 1].
    successors
        What is looked at next, likeliest first, int32 [n_items, SUCCESSORS]; an item may occur twice.
    """

    leaves: tuple[Leaf, ...]
    leaf: NDArray[np.int16]
    style: NDArray[np.int16]
    material: NDArray[np.int16]
    colour: NDArray[np.int16]
    brand: NDArray[np.int16]
    model: NDArray[np.int16]
    factors: NDArray[np.float32]
    leaf_factors: NDArray[np.float32]
    style_factors: NDArray[np.float32]
    colour_factors: NDArray[np.float32]
    brand_factors: NDArray[np.float32]
    popularity: NDArray[np.float64]
    launch_day: NDArray[np.int32]
    reprice_day: NDArray[np.int32]
    listed_before: NDArray[np.int64]
    price: NDArray[np.float64]
    new_price: NDArray[np.float64]
    by_leaf: NDArray[np.int32]
    leaf_offsets: NDArray[np.int64]
    successors: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.leaf)

    def on(self, day: int) -> Shelf:
        """Return what is on the shelf on a day of the period, and how much attention it gets."""
        available = self.launch_day <= day
        age = np.where(self.launch_day > 0, day - self.launch_day, np.inf)
        attention = self.popularity * available * (1 + 3 * np.exp(-np.maximum(age, 0) / _NOVELTY_DAYS))
        cumulative = np.concatenate([[0.0], np.cumsum(attention[self.by_leaf])])
        repriced = (self.reprice_day >= 0) & (self.reprice_day <= day)
        return Shelf(cumulative, available, np.where(repriced, self.new_price, self.price))

    def sample(
        self, shelf: Shelf, leaves: NDArray[np.integer], draws: int, rng: np.random.Generator
    ) -> NDArray[np.int32]:
        """Draw items of the given leaves by attention.

        Parameters
        ----------
        shelf
            The day's shelf.
        leaves
            Leaf of each row, int [n]; -1 stands for the whole catalogue.
        draws
            Items per row, with replacement.
        rng
            Source of randomness.

        Returns
        -------
        NDArray[np.int32]
            Items, [n, draws]; only launched ones.
        """
        low = np.where(leaves < 0, 0, shelf.cumulative[self.leaf_offsets[leaves]])[:, None]
        high = np.where(leaves < 0, shelf.cumulative[-1], shelf.cumulative[self.leaf_offsets[leaves + 1]])[
            :, None
        ]
        # Strictly below the upper edge, so that rounding can neither leave the leaf nor hit an item of no attention.
        point = np.minimum(low + rng.random((len(leaves), draws)) * (high - low), np.nextafter(high, 0))
        return self.by_leaf[np.searchsorted(shelf.cumulative, point, side="right") - 1]


def build_catalogue(config: SimulationConfig, rng: np.random.Generator) -> Catalogue:
    """Build the catalogue of a simulation."""
    n = config.items
    # Few items get few leaves, so that categories stay worth the name.
    chosen = np.linspace(0, len(LEAVES) - 1, min(len(LEAVES), max(1, n // 8))).round().astype(int)
    leaves = tuple(LEAVES[i] for i in chosen)
    departments = np.array([DEPARTMENTS.index(leaf.path[0]) for leaf in leaves])

    share = rng.permutation(zipf(len(leaves), 0.5))
    leaf = np.concatenate([np.arange(len(leaves)), rng.choice(len(leaves), n - len(leaves), p=share)])
    position = rng.integers(1, BRANDS_PER_DEPARTMENT + 1, n)
    brand = departments[leaf] * BRANDS_PER_DEPARTMENT + rng.integers(
        0, position
    )  # the first brands sell more lines
    style, colour = rng.integers(0, len(STYLES), n), rng.integers(0, len(COLOURS), n)
    material = rng.integers(0, len(next(iter(MATERIALS.values()))), n)
    style_factors, colour_factors = _directions(len(STYLES), rng), _directions(len(COLOURS), rng)
    brand_factors = _directions(len(DEPARTMENTS) * BRANDS_PER_DEPARTMENT, rng)
    material_factors = _directions(len(DEPARTMENTS) * len(next(iter(MATERIALS.values()))), rng)
    leaf_factors = _leaf_directions(leaves, rng)
    factors = normalise(
        leaf_factors[leaf]
        + 0.40 * style_factors[style]
        + 0.30 * brand_factors[brand]
        + 0.20 * colour_factors[colour]
        + 0.20 * material_factors[departments[leaf] * len(next(iter(MATERIALS.values()))) + material]
        + 0.25 * _directions(n, rng)
    )
    launch = np.where(rng.random(n) < _LAUNCHED_LATER, rng.integers(1, max(config.days, 2), n), 0)
    launch[: len(leaves)] = 0  # no leaf starts empty
    launch[launch >= config.days] = 0
    price, new_price, reprice = _prices(config, leaves, leaf, brand, launch, rng)

    shuffle = rng.permutation(n)  # else the first ids would say which leaf they belong to
    leaf, launch, factors = leaf[shuffle], launch[shuffle], factors[shuffle]
    by_leaf = np.argsort(leaf, kind="stable").astype(np.int32)
    offsets = np.searchsorted(leaf[by_leaf], np.arange(len(leaves) + 1))
    popularity = rng.permutation(zipf(n, _ZIPF))
    successors = _successors(leaf, factors, popularity, by_leaf, offsets, _partners(leaves, rng), rng)
    return Catalogue(
        leaves=leaves,
        leaf=leaf.astype(np.int16),
        style=style[shuffle].astype(np.int16),
        material=material[shuffle].astype(np.int16),
        colour=colour[shuffle].astype(np.int16),
        brand=brand[shuffle].astype(np.int16),
        model=rng.integers(0, 2**15, n).astype(np.int16),
        factors=factors,
        leaf_factors=leaf_factors,
        style_factors=style_factors,
        colour_factors=colour_factors,
        brand_factors=brand_factors,
        popularity=popularity,
        launch_day=launch.astype(np.int32),
        reprice_day=reprice[shuffle].astype(np.int32),
        listed_before=rng.integers(1, 365 * 86_400_000, n),
        price=price[shuffle],
        new_price=new_price[shuffle],
        by_leaf=by_leaf,
        leaf_offsets=offsets,
        successors=successors,
    )


def zipf(n: int, exponent: float) -> NDArray[np.float64]:
    """Return the shares of a Zipf distribution, largest first, float64 [n]."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def normalise(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale rows to unit norm."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def tier_of(brand: int) -> str:
    """Return the price tier of a brand, a key of ``TIERS``."""
    return tuple(TIERS)[brand % len(TIERS)]


def _directions(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return normalise(rng.standard_normal((n, FACTORS)))


def _leaf_directions(leaves: tuple[Leaf, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Place leaves so that those of one category, then those of one department, are near each other."""
    total = np.zeros((len(leaves), FACTORS), np.float32)
    for depth, weight in ((1, 0.45), (2, 0.55), (3, 0.70)):
        names = list(dict.fromkeys(leaf.path[:depth] for leaf in leaves))
        directions = _directions(len(names), rng)
        total += weight * directions[[names.index(leaf.path[:depth]) for leaf in leaves]]
    return normalise(total)


def _prices(
    config: SimulationConfig,
    leaves: tuple[Leaf, ...],
    leaf: NDArray[np.integer],
    brand: NDArray[np.integer],
    launch: NDArray[np.integer],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return prices before and after the day of repricing, and that day (-1: never)."""
    n = len(leaf)
    tier = np.array([factor for _, factor in TIERS.values()])[brand % len(TIERS)]
    typical = np.array([entry.price for entry in leaves])[leaf]
    price = np.maximum((typical * tier * rng.lognormal(0, 0.25, n)).round(2), 0.5)
    new_price = np.maximum((price * rng.uniform(0.7, 1.2, n)).round(2), 0.5)
    day = rng.integers(1, max(config.days, 2), n)
    changes = (rng.random(n) < _REPRICED) & (day > launch) & (day < config.days)
    return price, new_price, np.where(changes, day, -1)


def _partners(leaves: tuple[Leaf, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return for each leaf itself, one of its category, one of its department, and one from anywhere, [n_leaves, 4]."""
    rows = []
    for i, leaf in enumerate(leaves):
        row = [i]
        for depth in (2, 1, 0):
            near = [
                j for j, other in enumerate(leaves) if j != i and other.path[:depth] == leaf.path[:depth]
            ] or [i]
            row.append(int(rng.choice(near)))
        rows.append(row)
    return np.array(rows)


def _successors(
    leaf: NDArray[np.integer],
    factors: NDArray[np.float32],
    popularity: NDArray[np.float64],
    by_leaf: NDArray[np.int32],
    offsets: NDArray[np.int64],
    partners: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    """Link every item to others of its own and of partner leaves: popular, alike, and partly arbitrary."""
    cumulative = np.concatenate([[0.0], np.cumsum(np.sqrt(popularity[by_leaf]))])
    result = np.empty((len(leaf), SUCCESSORS), np.int32)
    for first in range(0, len(leaf), _BLOCK):
        block = np.arange(first, min(first + _BLOCK, len(leaf)))
        target = partners[leaf[block]][:, _SLOT_PARTNERS]
        low, high = cumulative[offsets[target]], cumulative[offsets[target + 1]]
        point = low[..., None] + rng.random((*target.shape, _DRAWS)) * (high - low)[..., None]
        found = (
            np.searchsorted(cumulative, np.minimum(point, np.nextafter(high, 0)[..., None]), side="right") - 1
        )
        drawn = by_leaf[found]
        alike = np.einsum("nscf,nf->nsc", factors[drawn], factors[block])
        appeal = 3 * alike + rng.gumbel(size=alike.shape) - 100 * (drawn == block[:, None, None])
        best = appeal.argmax(axis=2)[..., None]
        result[block] = np.take_along_axis(drawn, best, axis=2)[..., 0]
    return result
