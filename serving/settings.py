"""Switches of the service, from ``TESSERA_*`` variables."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal

from limits import parse
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What the service asks of its callers, and what it allows itself.

    Parameters
    ----------
    host
        Address that ``serve`` binds.
    api_keys
        Whether a request needs a key: ``on``, ``off``, or ``auto``, which is off on loopback and on elsewhere.
    rate_limit
        Requests of one key, or of one address where there is no key, such as ``600/minute``; empty for no limit.
    max_request_bytes
        Longest body that is read.
    request_timeout
        Seconds that the body of a request has to arrive, else it is answered with 408; and then the answer, else 503.
    max_concurrent_requests
        Requests that are answered at once; more are refused with 503, whoever waits would wait in vain.
    lookup_timeout
        Seconds after which a user whom the online store is asked for is answered as a stranger.
    batch
        Requests that a generative champion decodes together at most; 1 decodes each alone.
    text_search
        Whether the text encoder is loaded, which takes some hundred MB.
    user_secret
        What user ids were hashed with on their way into the lake, if they were.
    """

    model_config = SettingsConfigDict(env_prefix="TESSERA_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    api_keys: Literal["auto", "on", "off"] = "auto"
    rate_limit: str = "6000/minute"
    max_request_bytes: int = Field(default=1_000_000, ge=1)
    request_timeout: float = Field(default=5.0, gt=0)
    max_concurrent_requests: int = Field(default=64, ge=1)
    lookup_timeout: float = Field(default=0.5, gt=0)
    batch: int = Field(default=16, ge=1)
    text_search: bool = True
    user_secret: SecretStr | None = Field(default=None, min_length=16)

    @field_validator("rate_limit")
    @classmethod
    def _a_limit(cls, value: str) -> str:
        if value:
            parse(value)
        return value

    @property
    def needs_keys(self) -> bool:
        """Whether requests need a key."""
        return self.api_keys == "on" or (self.api_keys == "auto" and not is_loopback(self.host))


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
