"""Python's garbage collector, kept from stopping a service that answers."""

from __future__ import annotations

import gc


def settle() -> None:
    """Take all that lives now out of the collector's rounds.

    A full round over what a service imports stops every thread for some tenths of a second, and so it does where it
    is asked for; the round before this is one over young objects alone. What is in no cycle is freed all the same
    when nobody uses it any more, and engines are in none.
    """
    gc.collect(1)
    gc.freeze()
