"""What happens on one day: sessions of users who browse, search, put into the cart and buy.

A session is a walk. It begins with something its user is interested in at that time, or with a bestseller. Each next
step follows a successor of the item just seen, stays in its leaf, or turns to another interest. Every step offers a
slate of candidates, drawn by attention, of which the user takes the one that suits. So what is seen next depends on
the last item, on the user, and on popularity.

A day depends on nothing but the configuration and its number, so days need no state between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from orchestration.simulate.catalogue import SUCCESSORS, Catalogue, Shelf
from orchestration.simulate.config import SimulationConfig
from orchestration.simulate.text import QUERY_FORMS
from orchestration.simulate.users import Users

DAY_MS = 86_400_000
# In the order in which a step brings them about.
EVENT_TYPES = ("search", "impression", "view", "cart", "purchase")
SEARCH, IMPRESSION, VIEW, CART, PURCHASE = range(5)

_SLATE = SUCCESSORS  # items offered at each step
_MAX_STEPS = 16
_EXTRA_STEPS = 3.6  # mean steps after the first
_FOLLOW, _STAY = 0.45, 0.25  # share of later steps that follow a successor, or stay in the leaf
_BESTSELLER = 0.10  # share of the other steps that start from the whole catalogue's most popular
_SEARCHES = 0.20  # share of the other steps that start with a query
_CHOOSY = 9.0  # how much affinity counts against attention
_PASSED_OVER = 0.30  # share of steps that log the impression of an item not taken
_CART, _PURCHASE = (
    0.20,
    0.35,
)  # share of views put into the cart, and of those bought, for an average affinity
_EVENTS_PER_SESSION = 12.0  # only sizes the draws; the number of events is exact whatever it is
_DWELL_MS = 45_000
# Visits per hour of the day and per day of the week, relative to the mean.
_HOURS = np.array(
    [4, 2, 1, 1, 1, 2, 4, 7, 9, 10, 11, 12, 13, 12, 11, 11, 12, 14, 17, 20, 22, 20, 15, 9], float
)
_WEEKDAYS = np.array([0.95, 0.92, 0.94, 0.97, 1.00, 1.12, 1.10])
_GROWTH = 0.005  # more events from day to day


@dataclass(frozen=True)
class World:
    """A catalogue and its audience, and the configuration that made them."""

    config: SimulationConfig
    catalogue: Catalogue
    users: Users


@dataclass(frozen=True)
class Events:
    """Events in columns, one row each.

    Parameters
    ----------
    kind
        Index into ``EVENT_TYPES``, int8.
    user
        int32.
    item
        The item; of a search, the item that is wanted, int32.
    session
        Number of the session within the day, int64.
    ts
        When it happened, ms since the start of the period, int64.
    position
        Place in the slate from 1 on; 0 where none is logged, int8.
    form
        How a query is put, int8.
    price
        Price of the item on that day, float64.
    number
        Number of the event within the day, int64.
    """

    kind: NDArray[np.int8]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    session: NDArray[np.int64]
    ts: NDArray[np.int64]
    position: NDArray[np.int8]
    form: NDArray[np.int8]
    price: NDArray[np.float64]
    number: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: NDArray[np.integer] | slice) -> Events:
        """Return some of the rows."""
        return Events(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @staticmethod
    def concatenate(parts: list[Events]) -> Events:
        """Return the rows of all parts, one part after the other."""
        return Events(
            **{
                field.name: np.concatenate([getattr(p, field.name) for p in parts])
                for field in fields(Events)
            }
        )


@dataclass(frozen=True)
class _Walks:
    """Sessions step by step: one row per step, in the order of steps; ``session`` counts from 0."""

    session: NDArray[np.int64]
    step: NDArray[np.int64]
    item: NDArray[np.int32]
    other: NDArray[np.int32]  # an item of the slate that was passed over; -1 where none is logged
    searched: NDArray[np.bool_]
    affinity: NDArray[np.float32]


def events_per_day(config: SimulationConfig) -> NDArray[np.int64]:
    """Return how many events happen on each day; they sum to ``config.events``."""
    days = np.arange(config.days)
    share = _WEEKDAYS[(config.start.weekday() + days) % 7] * (1 + _GROWTH * days)
    edges = np.round(np.cumsum(share) / share.sum() * config.events).astype(np.int64)
    return np.diff(edges, prepend=0)


def day_chunks(world: World, day: int) -> Iterator[tuple[int, Events]]:
    """Yield the events of one day, a part of the day at a time.

    Yields
    ------
    int
        When the part ends, ms since the start of the period: every later part's events happen at or after it.
    Events
        Events of the sessions that began in that part, in no particular order; none happens on another day.
    """
    config = world.config
    total = int(events_per_day(config)[day])
    parts = max(1, -(-total // config.chunk))
    shelf = world.catalogue.on(day)
    newcomers = np.flatnonzero(world.users.join_day == day)
    visits = np.cumsum(np.where(world.users.join_day <= day, world.users.activity, 0), dtype=np.float64)
    done, sessions = 0, 0
    for part in range(parts):
        rng = np.random.default_rng([config.seed, 1, day, part])
        quota = total * (part + 1) // parts - done
        first = newcomers[part::parts]
        collected: list[Events] = []
        while (missing := quota - sum(map(len, collected))) > 0:
            n = int(missing / _EVENTS_PER_SESSION) + 2
            users = np.concatenate([first, _visitors(visits, n, rng)])[: max(n, len(first))]
            first = first[:0]
            starts = _start_times((part + rng.random(len(users))) / parts)
            events = _session_events(world, shelf, day, users, starts, rng)
            collected.append(events.take(slice(0, missing)))
            collected[-1].session[:] += sessions
            sessions += len(users)
        events = Events.concatenate(collected) if collected else _nothing()
        events.number[:] = done + np.arange(len(events))
        done += len(events)
        end = DAY_MS if part + 1 == parts else int(_start_times(np.array((part + 1) / parts)))
        yield day * DAY_MS + end, events


def _visitors(visits: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if visits[-1] == 0:  # nobody has joined by the clock: whoever comes is early
        return rng.integers(0, len(visits), n)
    point = np.minimum(rng.random(n) * visits[-1], np.nextafter(visits[-1], 0))
    return np.searchsorted(visits, point, side="right")


def _start_times(share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return when in the day a share of its visits has begun, ms; the last minute sees none."""
    edges = np.concatenate([[0.0], np.cumsum(_HOURS)]) / _HOURS.sum()
    return np.interp(share, edges, np.linspace(0, DAY_MS - 60_000, 25)).astype(np.int64)


def _session_events(
    world: World,
    shelf: Shelf,
    day: int,
    users: NDArray[np.integer],
    starts: NDArray[np.int64],
    rng: np.random.Generator,
) -> Events:
    """Return the events of the given sessions, session by session, each in the order of time."""
    wanted = world.users.interests(users, day / world.config.days, world.catalogue)
    leaves = _chosen_leaves(world.users, users, day / world.config.days, rng)
    walks = _walk(world.catalogue, shelf, wanted, leaves, rng)
    begins, leaving = _clock(walks, len(users), rng)

    n = len(walks.item)
    carted = rng.random(n) < np.clip(_CART * (0.4 + 1.2 * walks.affinity), 0, 1)
    bought = carted & (rng.random(n) < _PURCHASE)
    slot = 1 + (_SLATE * rng.random(n) ** 2).astype(np.int8)  # the top of a slate gets most of the attention
    form = rng.integers(0, QUERY_FORMS, n).astype(np.int8)
    looking = (begins + rng.integers(4_000, 8_000, n), slot)
    groups = [  # rows, kind, (time, position), item
        (walks.searched, SEARCH, (begins, None), walks.item),
        (walks.other >= 0, IMPRESSION, (begins + 3_000, slot % _SLATE + 1), walks.other),
        (np.ones(n, bool), IMPRESSION, (begins + 3_000, slot), walks.item),
        (np.ones(n, bool), VIEW, looking, walks.item),
        (carted, CART, (looking[0] + rng.integers(2_000, 6_000, n), None), walks.item),
        (bought, PURCHASE, (leaving[walks.session] + rng.integers(1_000, 9_000, n), None), walks.item),
    ]
    columns = [
        _group(np.flatnonzero(rows), kind, *when, item, walks.session, form)
        for rows, kind, when, item in groups
    ]
    kind, session, item, offset, position, form = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )

    duration = np.zeros(len(users), np.int64)
    np.maximum.at(duration, session, offset)
    # A session that would run past midnight is hurried, so that a day's events are all of that day.
    pace = np.minimum(1.0, (DAY_MS - 1 - starts) / np.maximum(duration, 1))
    ts = day * DAY_MS + starts[session] + (offset * pace[session]).astype(np.int64)
    events = Events(
        kind=kind,
        user=users[session].astype(np.int32),
        item=item,
        session=session,
        ts=ts,
        position=position,
        form=form,
        price=shelf.prices[item],
        number=np.zeros(len(kind), np.int64),
    )
    return events.take(np.lexsort((kind, ts, session)))


def _group(
    rows: NDArray[np.integer],
    kind: int,
    offset: NDArray[np.int64],
    position: NDArray[np.integer] | None,
    item: NDArray[np.int32],
    session: NDArray[np.int64],
    form: NDArray[np.int8],
) -> tuple[NDArray, ...]:
    """Return kind, session, item, offset, position and form of the events of one kind."""
    slot = np.zeros(len(rows), np.int8) if position is None else position[rows].astype(np.int8)
    return np.full(len(rows), kind, np.int8), session[rows], item[rows], offset[rows], slot, form[rows]


def _chosen_leaves(
    users: Users, rows: NDArray[np.integer], progress: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Draw the leaf of a user's interest for each possible step, [n, _MAX_STEPS]."""
    edges = np.cumsum(users.weights(rows, progress), axis=1)
    which = (rng.random((len(rows), _MAX_STEPS))[:, :, None] > edges[:, None, :-1]).sum(axis=2)
    return np.take_along_axis(users.favourites[rows], which, axis=1)


def _walk(
    catalogue: Catalogue,
    shelf: Shelf,
    wanted: NDArray[np.float32],
    leaves: NDArray[np.int16],
    rng: np.random.Generator,
) -> _Walks:
    """Walk every session to its end.

    Parameters
    ----------
    catalogue, shelf
        Where they walk.
    wanted
        Interests of each session's user, [n, FACTORS].
    leaves
        The leaf each step would turn to, [n, _MAX_STEPS].
    rng
        Source of randomness.
    """
    n = len(wanted)
    length = 1 + np.minimum(rng.poisson(_EXTRA_STEPS * rng.gamma(2.0, 0.5, n)), _MAX_STEPS - 1)
    seen = np.full((n, _MAX_STEPS), -1, np.int32)
    steps = []
    for step in range(int(length.max(initial=0))):
        alive = np.flatnonzero(length > step)
        here = seen[alive, step - 1] if step else np.full(len(alive), -1, np.int32)
        mode = rng.random(len(alive))
        follows = (mode < _FOLLOW) & (step > 0)
        stays = (mode < _FOLLOW + _STAY) & (step > 0) & ~follows
        turns = ~follows & ~stays
        leaf = np.where(stays, catalogue.leaf[here], leaves[alive, step])
        leaf = np.where(turns & (rng.random(len(alive)) < _BESTSELLER), -1, leaf)
        slate = catalogue.sample(shelf, leaf, _SLATE, rng)
        attention = np.zeros(slate.shape, np.float32)
        # A successor is followed only where one is launched and new to the session.
        linked = catalogue.successors[here]
        open_ = shelf.available[linked] & ~_in_session(linked, seen[alive])
        follows &= open_.any(axis=1)
        slate[follows] = linked[follows]
        attention[follows] = np.where(open_, -np.log(np.arange(1, SUCCESSORS + 1)), -np.inf)[follows]
        attention[~follows] -= 100 * _in_session(slate, seen[alive])[~follows]

        affinity = np.einsum("nsf,nf->ns", catalogue.factors[slate], wanted[alive])
        best = (_CHOOSY * affinity + attention + rng.gumbel(size=slate.shape)).argmax(axis=1)
        rows = np.arange(len(alive))
        item = slate[rows, best]
        other = slate[rows, (best + rng.integers(1, _SLATE, len(alive))) % _SLATE]
        logged = (rng.random(len(alive)) < _PASSED_OVER) & (other != item) & shelf.available[other]
        seen[alive, step] = item
        searched = turns & (rng.random(len(alive)) < _SEARCHES)
        steps.append(
            (
                alive,
                np.full(len(alive), step),
                item,
                np.where(logged, other, -1),
                searched,
                affinity[rows, best],
            )
        )
    return _Walks(*(np.concatenate(column) for column in zip(*steps, strict=True)))


def _in_session(items: NDArray[np.int32], seen: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Tell which of ``items`` [n, k] occur in the row of ``seen`` [n, t]."""
    return (items[:, :, None] == seen[:, None, :]).any(axis=2)


def _clock(walks: _Walks, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return when each step begins and when each session goes to the checkout, ms after its start."""
    dwell = np.zeros((n, _MAX_STEPS + 1), np.int64)
    dwell[walks.session, walks.step + 1] = 15_000 + rng.exponential(_DWELL_MS, len(walks.step)).astype(
        np.int64
    )
    clock = dwell.cumsum(axis=1)
    return clock[walks.session, walks.step], clock[:, -1]


def _nothing() -> Events:
    small, medium, large = np.zeros(0, np.int8), np.zeros(0, np.int32), np.zeros(0, np.int64)
    return Events(small, medium, medium, large, large, small, small, np.zeros(0, np.float64), large)
