"""What is known of users and items, and for how long it stays true."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from feast import FeatureView, Field
from feast.types import Array, Float64, Int64, String

from feature_repo.entities import item, user
from feature_repo.sources import HOME, parquet_source, pushed

# The widest window is 30 days, and a row is written on every day with events: past that, every count has become zero.
ACTIVITY_TTL = timedelta(days=30)
ITEM_STATS_TTL = timedelta(days=30)
# What a user did stays true; after two years it says little about what the user wants now.
HISTORY_TTL = timedelta(days=730)
# An ID changes with the tokenizer's version only.
SEMANTIC_ID_TTL = timedelta(days=3650)


def user_activity(home: Path) -> FeatureView:
    """Return how much, how recently and on what a user acts."""
    return FeatureView(
        name="user_activity",
        entities=[user],
        ttl=ACTIVITY_TTL,
        schema=[
            Field(name="events_1d", dtype=Int64),
            Field(name="events_7d", dtype=Int64),
            Field(name="interactions_7d", dtype=Int64),
            Field(name="interactions_30d", dtype=Int64),
            Field(name="views_30d", dtype=Int64),
            Field(name="carts_30d", dtype=Int64),
            Field(name="purchases_30d", dtype=Int64),
            Field(name="days_since_last", dtype=Float64),
            Field(name="tenure_days", dtype=Float64),
            Field(name="favourite_category", dtype=String),
            Field(name="mean_price_30d", dtype=Float64),
        ],
        source=parquet_source(home, "marts/ftr_user__activity/*.parquet"),
    )


def user_history(home: Path) -> FeatureView:
    """Return a user's latest distinct items, oldest first, with the kind and time of the first event on each."""
    return FeatureView(
        name="user_history",
        entities=[user],
        ttl=HISTORY_TTL,
        schema=[
            Field(name="recent_items", dtype=Array(String)),
            Field(name="recent_types", dtype=Array(String)),
            Field(name="recent_ts", dtype=Array(Int64), description="Milliseconds since the epoch, UTC."),
            Field(
                name="history_length", dtype=Int64, description="Of the whole history, not only the latest."
            ),
        ],
        source=pushed(parquet_source(home, "marts/ftr_user__history/*.parquet")),
    )


def item_stats(home: Path) -> FeatureView:
    """Return an item's popularity, conversion, age and price."""
    return FeatureView(
        name="item_stats",
        entities=[item],
        ttl=ITEM_STATS_TTL,
        schema=[
            Field(name="impressions_7d", dtype=Int64),
            Field(name="views_7d", dtype=Int64),
            Field(name="interactions_7d", dtype=Int64),
            Field(name="interactions_30d", dtype=Int64),
            Field(name="purchases_30d", dtype=Int64),
            Field(name="users_30d", dtype=Int64),
            Field(name="conversion_30d", dtype=Float64),
            Field(name="age_days", dtype=Float64),
            Field(name="price", dtype=Float64),
        ],
        source=parquet_source(home, "marts/ftr_item__stats/*.parquet"),
    )


def item_semantic_id(home: Path) -> FeatureView:
    """Return an item's semantic ID and the version that it belongs to; there once semantic IDs are."""
    return FeatureView(
        name="item_semantic_id",
        entities=[item],
        ttl=SEMANTIC_ID_TTL,
        schema=[Field(name="semantic_id", dtype=String), Field(name="version", dtype=String)],
        source=parquet_source(home, "feast/item_semantic_id.parquet"),
    )


# What `feast` finds when it is pointed at this folder.
user_activity_view = user_activity(HOME)
user_history_view = user_history(HOME)
item_stats_view = item_stats(HOME)
item_semantic_id_view = item_semantic_id(HOME)
