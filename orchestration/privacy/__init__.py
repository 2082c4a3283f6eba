"""Erasing users: from the lake to the online store, old versions and logs among them. Knows no Dagster."""

from orchestration.privacy.erase import (
    PrivacyError,
    erase_derived,
    erase_from_lake,
    erase_online,
    finish,
    forget_warehouse,
    is_known,
    pending,
    request,
)

__all__ = [
    "PrivacyError",
    "erase_derived",
    "erase_from_lake",
    "erase_online",
    "finish",
    "forget_warehouse",
    "is_known",
    "pending",
    "request",
]
