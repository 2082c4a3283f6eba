"""Logs of the service: one JSON object a line, each with the id of the request that it belongs to."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request at work; threads that work for it see it too."""

access_log = logging.getLogger("serving.access")


class RequestId(logging.Filter):
    """Puts the id of the request at work on a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        record.request_id = request_id.get()
        return True


LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "serving.logs.RequestId"}},
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "{levelname}{name}{message}{request_id}",
            "style": "{",
            "rename_fields": {"levelname": "level", "name": "logger"},
            "timestamp": "time",
        }
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "filters": ["request_id"],
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"level": "INFO", "handlers": ["stderr"]},
    "loggers": {
        # Paths hold user ids; our own line has the route, the time and who answered.
        "uvicorn.access": {"level": "CRITICAL"},
        "uvicorn.error": {"level": "INFO"},
    },
}
"""What uvicorn sets up in each of its processes (`logging.config.dictConfig`)."""
