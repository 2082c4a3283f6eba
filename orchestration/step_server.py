"""Imported by the server that forks the steps of a run, and by nothing else."""

from __future__ import annotations

import orchestration.definitions  # noqa: F401
from orchestration.runs import end_with_the_run

end_with_the_run()
