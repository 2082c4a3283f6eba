"""The simulated audience: who they are, what they want, and how that drifts over the period."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestration.simulate.catalogue import BRANDS_PER_DEPARTMENT, DEPARTMENTS, Catalogue, normalise, zipf
from orchestration.simulate.config import SimulationConfig
from orchestration.simulate.vocabulary import COLOURS, STYLES

FAVOURITES = 4
_ACTIVITY_SPREAD = 0.6  # standard deviation of log activity
_TASTE = 0.6  # weight of style, colour and brand beside the favourite leaves


@dataclass(frozen=True)
class Users:
    """All users of a simulation; user ``u`` is row ``u`` of every array.

    Parameters
    ----------
    favourites
        Leaves a user shops in, int16 [n_users, FAVOURITES]; a leaf may occur twice.
    early, late
        Weights of the favourites when the period begins and when it has ended, rows sum to 1, float32 as above.
    style, colour, brand
        What a user prefers everywhere, int16 [n_users].
    activity
        How often a user comes, relative to others, float32 [n_users].
    join_day
        Day of the first visit, int32 [n_users].
    """

    favourites: NDArray[np.int16]
    early: NDArray[np.float32]
    late: NDArray[np.float32]
    style: NDArray[np.int16]
    colour: NDArray[np.int16]
    brand: NDArray[np.int16]
    activity: NDArray[np.float32]
    join_day: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.activity)

    def weights(self, rows: NDArray[np.integer], progress: float) -> NDArray[np.float32]:
        """Return the weights of the favourites when a share ``progress`` of the period is over, [n, FAVOURITES]."""
        return ((1 - progress) * self.early[rows] + progress * self.late[rows]).astype(np.float32)

    def interests(
        self, rows: NDArray[np.integer], progress: float, catalogue: Catalogue
    ) -> NDArray[np.float32]:
        """Return where users stand in the catalogue's latent space, unit norm, float32 [n, FACTORS].

        The inner product with ``Catalogue.factors`` is the user's affinity to an item, in [-1, 1].
        """
        leaves = catalogue.leaf_factors[self.favourites[rows]]
        wanted = np.einsum("nk,nkf->nf", self.weights(rows, progress), leaves)
        taste = (
            catalogue.style_factors[self.style[rows]]
            + 0.75 * catalogue.brand_factors[self.brand[rows]]
            + 0.5 * catalogue.colour_factors[self.colour[rows]]
        )
        return normalise(normalise(wanted) + _TASTE * normalise(taste))


def build_users(config: SimulationConfig, catalogue: Catalogue, rng: np.random.Generator) -> Users:
    """Build the audience of a simulation."""
    n, n_leaves = config.users, len(catalogue.leaves)
    department = np.array([DEPARTMENTS.index(leaf.path[0]) for leaf in catalogue.leaves])
    favourites = rng.choice(n_leaves, (n, FAVOURITES), p=rng.permutation(zipf(n_leaves, 0.6)))
    # Half of the further favourites stay in the department of the first one.
    first = np.searchsorted(department, department[favourites[:, 0]], side="left")
    size = np.searchsorted(department, department[favourites[:, 0]], side="right") - first
    nearby = first[:, None] + (rng.random((n, FAVOURITES)) * size[:, None]).astype(int)
    stays = rng.random((n, FAVOURITES)) < 0.5
    stays[:, 0] = False
    favourites = np.where(stays, nearby, favourites)
    own = department[favourites[:, 0]] * BRANDS_PER_DEPARTMENT
    return Users(
        favourites=favourites.astype(np.int16),
        early=_drift_end(n, rng),
        late=_drift_end(n, rng),
        style=rng.integers(0, len(STYLES), n).astype(np.int16),
        colour=rng.integers(0, len(COLOURS), n).astype(np.int16),
        brand=(own + rng.integers(0, BRANDS_PER_DEPARTMENT, n)).astype(np.int16),
        activity=rng.lognormal(0, _ACTIVITY_SPREAD, n).astype(np.float32),
        # Most of the audience is there early: density falls linearly to zero at the end of the period.
        join_day=((1 - np.sqrt(rng.random(n))) * config.days).astype(np.int32),
    )


def _drift_end(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    weights = rng.gamma(0.7, size=(n, FAVOURITES)) + 1e-3
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
