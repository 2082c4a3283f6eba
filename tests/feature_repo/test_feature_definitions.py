"""The feature repository holds definitions only, and they say what the rest of Tessera relies on."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView
from feast.repo_operations import get_repo_files

import feature_repo
from feature_repo.services import definitions
from serving.feature_store import apply_definitions, open_store

REPO = Path(feature_repo.__file__).parent


def test_feast_imports_definitions_only() -> None:
    files = get_repo_files(REPO)
    assert [file.stem for file in files] == ["entities", "services", "sources", "views"]
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert imported <= {"__future__", "os", "pathlib", "typing", "datetime", "feast", "feature_repo"}


def test_definitions_are_complete(tmp_path: Path) -> None:
    objects = definitions(tmp_path)
    entities = {o.name: o.join_key for o in objects if isinstance(o, Entity)}
    views = {o.name: o for o in objects if isinstance(o, FeatureView)}
    (service,) = (o for o in objects if isinstance(o, FeatureService))

    assert entities == {"user": "user_id", "item": "item_id"}
    assert {name: view.ttl for name, view in views.items()} == {
        "user_activity": timedelta(days=30),
        "user_history": timedelta(days=730),
        "item_stats": timedelta(days=30),
        "item_semantic_id": timedelta(days=3650),
    }
    assert service.name == "ranker_v1"
    assert {p.name for p in service.feature_view_projections} == {
        "user_activity",
        "user_history",
        "item_stats",
    }
    for view in views.values():
        source = view.batch_source
        assert Path(source.path).is_relative_to(tmp_path)
        assert (source.timestamp_field, source.created_timestamp_column) == (
            "event_timestamp",
            "created_timestamp",
        )


def test_apply_is_idempotent_and_removes_what_is_gone(tmp_path: Path) -> None:
    from feast import FileSource

    first = apply_definitions(tmp_path)
    store = open_store(tmp_path)
    store.apply(
        FeatureView(
            name="forgotten",
            entities=[store.get_entity("user")],
            source=FileSource(
                name="forgotten", path=str(tmp_path / "x.parquet"), timestamp_field="event_timestamp"
            ),
            schema=store.get_feature_view("user_history").schema,
        )
    )

    second = apply_definitions(tmp_path)
    third = apply_definitions(tmp_path)

    assert first.views == second.views == ["item_semantic_id", "item_stats", "user_activity", "user_history"]
    assert (first.removed, second.removed, third.removed) == ([], ["forgotten"], [])
    assert {view.name for view in open_store(tmp_path).list_feature_views()} == set(first.views)
    assert (tmp_path / "feast" / "registry.db").is_file()
