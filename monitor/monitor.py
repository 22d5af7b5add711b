"""A monitor in process: load a bundle, assess arrays."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from demur.monitor.bundle import Bundle
from demur.monitor.engine import Conduct, Engine, Listener, Recorder
from demur.monitor.errors import InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import observe
from demur.monitor.session import CPU
from demur.monitor.streams import StreamPool, TokenStream
from demur.monitor.verdicts import Verdicts


class Monitor:
    """Assesses what a model produced, in the caller's process. Thread-safe.

    >>> verdicts = Monitor.load("digits.demur").assess(logits=logits, features=features)  # doctest: +SKIP
    >>> verdicts.accept, verdicts.reasons[3]  # doctest: +SKIP
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._streams: StreamPool | None = None
        self._opening = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        trusted: Sequence[Ed25519PublicKey] | None = None,
        providers: Sequence[str] = CPU,
        threads: int = 1,
        conduct: Conduct | None = None,
        recorder: Recorder | None = None,
        listeners: Sequence[Listener] = (),
    ) -> Self:
        """Verify a bundle, run its self-test, and get ready.

        `trusted` public keys make a signature required. Raises: BundleError and its kinds, saying what is wrong.
        """
        loaded = Loaded.open(Bundle.load(path, trusted=trusted), providers=providers, threads=threads)
        return cls(Engine(loaded, conduct=conduct, recorder=recorder, listeners=listeners))

    @classmethod
    def of(cls, bundle: Bundle, **options: Any) -> Self:
        """A monitor of a bundle that is already in memory."""
        return cls(Engine(Loaded.open(bundle), **options))

    @property
    def bundle(self) -> Bundle:
        """The bundle in use."""
        return self.engine.loaded.bundle

    def assess(
        self,
        *,
        group_id: Any = None,
        groups: Any = None,
        model: Mapping[str, str] | None = None,
        deadline: float | None = None,
        **signals: Any,
    ) -> Verdicts:
        """Verdicts for N rows: each signal (N, width) float32, `group_id` (N,) integers for policies that judge groups.

        `model` may carry `version`, `digest` and `decoding`, compared with the bundle's; `deadline` is on `time.perf_counter`'s clock.
        A missing signal, a non-finite value or a failing graph is an abstention in the verdicts.
        Raises: InvalidObservation for an unknown signal, a wrong shape or dtype.
        """
        loaded = self.engine.loaded
        if loaded.manifest.kind != "rows":
            raise InvalidObservation("this bundle judges token streams; use `open_stream()` and `step()`")
        observation = observe(loaded.widths, signals, group_id=group_id, groups=groups, model=model or {})
        return self.engine.assess(observation, loaded=loaded, deadline=deadline)

    def open_stream(self) -> StreamSession:
        """A fresh token stream on the current bundle. Raises: Overloaded, InvalidObservation for a bundle of rows."""
        if self.engine.loaded.manifest.kind != "stream":
            raise InvalidObservation("this bundle judges rows; use `assess()`")
        with self._opening:
            if self._streams is None:
                self._streams = StreamPool(self.engine)
        return StreamSession(self._streams.open())

    def close(self) -> None:
        """Forget every open stream and end their thread; a monitor of rows has nothing to close."""
        with self._opening:
            pool, self._streams = self._streams, None
        if pool is not None:
            pool.close()


class StreamSession:
    """One token stream in process: `step` judges the stream so far; use it as a context manager."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    def step(self, **signals: Any) -> Verdicts:
        """The verdict after one more step, signals (1, width). Raises: InvalidObservation."""
        return self._stream.step(observe(self._stream.loaded.widths, signals)).result()

    def close(self) -> None:
        """Forget the stream's state."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
