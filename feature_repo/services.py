"""Named sets of features; a name's version says what a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feast import FeatureService, FeatureView

from feature_repo.entities import item, user
from feature_repo.sources import HOME
from feature_repo.views import item_semantic_id, item_stats, user_activity, user_history


def ranker_v1(views: list[FeatureView]) -> FeatureService:
    """Return the features of the first ranker, out of the views of :func:`definitions`."""
    names = {"user_activity", "user_history", "item_stats"}
    return FeatureService(name="ranker_v1", features=[view for view in views if view.name in names])


def definitions(home: Path) -> list[Any]:
    """Return every object of this repository, its sources below ``home`` (absolute)."""
    views = [user_activity(home), user_history(home), item_stats(home), item_semantic_id(home)]
    batch = [view.batch_source for view in views]
    push = [view.stream_source for view in views if view.stream_source is not None]
    return [user, item, *batch, *push, *views, ranker_v1(views)]


ranker_v1_service = ranker_v1(
    [user_activity(HOME), user_history(HOME), item_stats(HOME)],
)
