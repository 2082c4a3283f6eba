"""Run the command line."""

from __future__ import annotations

from orchestration.cli import app

# Worker processes import this module too, and must not run it.
if __name__ == "__main__":
    app()
