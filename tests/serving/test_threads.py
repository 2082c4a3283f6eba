from __future__ import annotations

import asyncio
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from planted import planted_engine

from serving.batching import Batched
from serving.threads import FEW, Threads


def test_few_threads_answer_but_for_a_champion_that_decodes_together() -> None:
    alone, together = planted_engine(), planted_engine()
    champion: Any = together.champion
    together.champion = Batched(champion, 16)

    async def seen() -> list[float]:
        threads, found = Threads(), []
        # A publication may be loaded before the loop runs, and in another thread.
        threads.fit(together, 16)
        threads.begin()
        limiter = current_default_thread_limiter()
        found.append(limiter.total_tokens)
        for engine, batch in ((alone, 16), (together, 8), (together, 1)):
            await asyncio.to_thread(threads.fit, engine, batch)
            await asyncio.sleep(0)
            found.append(limiter.total_tokens)
        return found

    assert asyncio.run(seen()) == [16, FEW, 8, FEW]
