"""Which monitors this server serves, by name, and how each is doing."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Mapping

from demur.monitor.config.server import ServedMonitorConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import BundleError, InvalidObservation, UnknownMonitor
from demur.monitor.loaded import Loaded
from demur.monitor.streams import StreamPool


class Served:
    """One configured monitor. Without an engine it is broken: no bundle of its file was ever good."""

    def __init__(self, config: ServedMonitorConfig, *, streams: int = 1024, idle_seconds: float = 300.0) -> None:
        self.config = config
        self.engine: Engine | None = None
        self.error = ""
        self._streams, self._idle_seconds = streams, idle_seconds
        self._pool: StreamPool | None = None
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        return self.config.name

    def working(self) -> Engine:
        """The engine. Raises: BundleError saying why there is none."""
        if self.engine is None:
            raise BundleError(f"monitor {self.name} has no usable bundle: {self.error}")
        return self.engine

    def rows(self) -> tuple[Engine, Loaded]:
        """Engine and current bundle of a monitor that judges rows. Raises: BundleError, InvalidObservation for token streams."""
        engine = self.working()
        loaded = engine.loaded
        if loaded.manifest.kind != "rows":
            raise InvalidObservation(
                f"monitor {self.name} judges token streams; use AssessStream with a stream_id for each"
            )
        return engine, loaded

    def pool(self) -> StreamPool:
        """The pool of a monitor of token streams. Raises: BundleError, InvalidObservation for one that judges rows."""
        engine = self.working()
        if engine.loaded.manifest.kind != "stream":
            raise InvalidObservation(f"monitor {self.name} judges rows; send frames without a stream_id, or use Assess")
        with self._opening:
            if self._pool is None:
                self._pool = StreamPool(engine, capacity=self._streams, idle_seconds=self._idle_seconds)
            return self._pool

    @property
    def live_streams(self) -> int:
        """Token streams open now."""
        return 0 if self._pool is None else self._pool.live

    def close(self) -> None:
        """Forget every token stream."""
        if self._pool is not None:
            self._pool.close()


class Registry:
    """Served monitors by name; fixed when the server starts, only their bundles change."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = dict(served)

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def get(self, name: str) -> Served:
        """The monitor of this name; "" means the only one. Raises: UnknownMonitor naming the closest."""
        found = self._served.get(name)
        if found is not None:
            return found
        if not name and len(self._served) == 1:
            return next(iter(self._served.values()))
        raise UnknownMonitor(self._unknown(name[:128]))

    def _unknown(self, name: str) -> str:
        known = ", ".join(sorted(self._served))
        if not name:
            return f"the request names no monitor and this server has several: {known}; name one"
        close = difflib.get_close_matches(name, self._served, 1)
        hint = f"did you mean {close[0]!r}?" if close else "check the name, or `monitors` in the server's configuration"
        return f"monitor {name!r} is not served here, only {known}; {hint}"

    @property
    def ready(self) -> bool:
        """Whether every configured monitor has a bundle that passed its self-test."""
        return all(s.engine is not None for s in self)

    @property
    def working(self) -> bool:
        """Whether at least one monitor has."""
        return any(s.engine is not None for s in self)
