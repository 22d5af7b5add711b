"""The end of a journal file: batches are written and synced there, or nothing is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from demur.monitor.audit.frame import Frame
from demur.monitor.audit.storage import Storage


class Appender:
    """Appends batches to the newest file of a journal. One thread only.

    INVARIANT: `offset` is the end of synced data. After any failure the file is opened anew and cut there before the
    next batch: a failed fdatasync may have dropped dirty pages and says so only once, so its data is written again.
    """

    def __init__(
        self, storage: Storage, name: Callable[[int], Path], *, path: Path | None = None, offset: int = 0,
        segment_bytes: int = 16 << 20,
    ) -> None:  # fmt: skip
        self._storage = storage
        self._name = name
        self.path = path
        self.offset = offset
        self._segment_bytes = segment_bytes
        self._descriptor: int | None = None

    def commit(self, first: int, parts: Sequence[tuple[bytes, bytes]]) -> None:
        """Make (leaf, block) pairs durable under the sequences from `first` on. Raises: OSError, and nothing counts."""
        if self.path is None or self.offset >= self._segment_bytes:
            self._release()
            self.path, self.offset = self._name(first), 0
        data = b"".join(Frame(first + i, self.offset, leaf, block).encode() for i, (leaf, block) in enumerate(parts))
        try:
            descriptor = self._open()
            self._storage.write(descriptor, data, self.offset)
            self._storage.sync(descriptor)
        except BaseException:
            self._release(cut=True)
            raise
        self.offset += len(data)

    def close(self) -> None:
        """Let the file go."""
        self._release()

    def _open(self) -> int:
        if self._descriptor is None and self.path is not None:
            descriptor = self._storage.open(self.path)
            try:
                self._storage.truncate(descriptor, self.offset)
            except OSError:
                self._storage.close(descriptor)
                raise
            self._descriptor = descriptor
        assert self._descriptor is not None  # noqa: S101 - for the type checker: `commit` has set the path
        return self._descriptor

    def _release(self, *, cut: bool = False) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if cut:
            with suppress(OSError):  # cut again before the next batch
                self._storage.truncate(descriptor, self.offset)
        with suppress(OSError):  # everything that counts was synced
            self._storage.close(descriptor)
