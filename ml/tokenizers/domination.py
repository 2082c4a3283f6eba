"""Semantic domination: how far joint vectors follow an item's text rather than its behaviour.

Xiao et al., "Progressive Collaborative and Semantic Knowledge Fusion for Generative Recommendation" (PRORec, 2025),
observe that vectors joined end to end follow the text almost alone. Neighbours are what the measure is taken on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml.tokenizers.report import neighbour_overlap


def semantic_domination(
    joint: NDArray[np.float32], text: NDArray[np.float32], behaviour: NDArray[np.float32], seed: int = 0
) -> dict[str, float] | None:
    """Compare the neighbours of joint vectors with those in each space.

    Parameters
    ----------
    joint, text, behaviour
        Vectors of the same items, known in both spaces, ``[n, d1]``, ``[n, d2]``, ``[n, d3]``.
    seed
        Seed of the sample of items.

    Returns
    -------
    dict[str, float] | None
        ``text`` and ``behaviour``: overlap of the 10 nearest neighbours with that space; ``domination``: the text's
        part of the sum of the two, 0.5 where both weigh the same and 1 where behaviour is lost. None where there are
        too few items to have 10 neighbours, or no neighbours in common with either.
    """
    with_text = neighbour_overlap(text, joint, seed)
    with_behaviour = neighbour_overlap(behaviour, joint, seed)
    if with_text is None or with_behaviour is None or with_text + with_behaviour == 0:
        return None
    return {
        "text": with_text,
        "behaviour": with_behaviour,
        "domination": with_text / (with_text + with_behaviour),
    }
