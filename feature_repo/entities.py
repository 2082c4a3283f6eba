"""Whom and what features describe."""

from __future__ import annotations

from feast import Entity, ValueType

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="Who acts.")
item = Entity(
    name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="What is acted on."
)
