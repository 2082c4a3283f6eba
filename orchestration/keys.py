"""Keys of the service, and whether it may be bound as asked."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from orchestration.settings import SettingsError
from serving.keys import KeyFile, Scope
from serving.settings import ServiceSettings


def add(home: Path, name: str, scope: str) -> str:
    """Make a key and return it.

    Raises
    ------
    SettingsError
        If there is no such scope.
    KeyFileError
        If the name is taken, or is none.
    """
    for known in get_args(Scope):
        if scope == known:
            return KeyFile(home).add(name, known)
    raise SettingsError(f"{scope!r} is no scope: {' or '.join(get_args(Scope))}")


def check_binding(home: Path) -> ServiceSettings:
    """Return the settings of the service, if it may be started with them.

    Raises
    ------
    SettingsError
        If keys are needed and there is none: on any address but loopback, unless ``TESSERA_API_KEYS`` is ``off``.
    """
    service = ServiceSettings()
    if service.needs_keys and not KeyFile(home).all():
        raise SettingsError(
            f"requests to {service.host} need a key and there is none: make one with "
            "`python -m orchestration keys add NAME`, or set TESSERA_API_KEYS=off"
        )
    return service
