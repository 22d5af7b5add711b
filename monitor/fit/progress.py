"""How far a fit has come: every pass over the data as a bar, without the numerics knowing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from demur.detectors.score import CHUNK_ROWS, Engine, Reference

Tick = Callable[[str, int, int], None]
"""Called with what is going on, rows done, rows in all."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody watches."""


class Watched:
    """An engine whose passes are reported chunk by chunk; `inner` None runs them here."""

    def __init__(self, tick: Tick, inner: Engine | None = None) -> None:
        self._tick, self._inner = tick, inner
        self.stage = "fitting"

    def __call__(self, reference: Reference, part: Callable[[Any], Any], needs: tuple[str, ...]) -> Iterator[Any]:
        here = (reference.chunk(part, needs, number) for number in range(reference.chunks))
        for number, found in enumerate(here if self._inner is None else self._inner(reference, part, needs)):
            yield found
            self._tick(self.stage, min((number + 1) * CHUNK_ROWS, reference.rows), reference.rows)
