"""Derives tiles and checkpoints from what the journal has synced, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from demur.monitor.audit.note import Checkpoint, Signer
from demur.monitor.audit.segment import Cursor, Damage
from demur.monitor.audit.storage import Storage
from demur.monitor.audit.tiles import Tile, Tree, tile_path

LOG = logging.getLogger("demur.audit")
CHECKPOINT = "checkpoint"

Export = Callable[[bytes], None]


class Publisher:
    """Follows the journal; every `seconds`, and at close, publishes the tiles and a signed checkpoint of its size.

    INVARIANT: a checkpoint covers synced records only, and never says less than the one before it.
    Memory: one tree edge and the part of one journal file. When storage is away it stops and goes on later.
    """

    def __init__(
        self, directory: Path, storage: Storage, signer: Signer, origin: str, *, synced: Callable[[], int], tree: Tree,
        cursor: Cursor, published: int, seconds: float = 1.0, exports: Sequence[Export] = (),
    ) -> None:  # fmt: skip
        self._directory, self._storage, self._signer, self._origin = directory, storage, signer, origin
        self._synced, self._tree, self._cursor = synced, tree, cursor
        self._published, self._seconds, self._exports = published, seconds, tuple(exports)
        self._unwritten: list[Tile] = []
        self._failing = False
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="demur-audit-publisher", daemon=True)

    @property
    def lag(self) -> int:
        """Synced records that no checkpoint covers yet."""
        return max(0, self._synced() - self._published)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def publish(self) -> bool:
        """Publish everything synced by now; whether that worked. Thread-safe."""
        with self._turn:
            try:
                self._follow()
                if self._tree.size > self._published or not (self._directory / CHECKPOINT).exists():
                    self._checkpoint()
            except Exception as error:  # INVARIANT: the thread lives; the journal is what counts
                if not self._failing:
                    LOG.error("audit checkpoints: %s; they go on when storage returns", error)  # noqa: TRY400
                self._failing = True
                return False
            self._failing = False
            return True

    def close(self) -> None:
        """Publish the last checkpoint and stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.publish()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.publish()

    def _follow(self) -> None:
        upto = self._synced()
        self._write_full()
        for item in self._cursor.read(upto):
            if isinstance(item, Damage):
                raise OSError(f"{item.path} at byte {item.offset}: {item.cause}")
            self._unwritten += self._tree.append(item.frame.leaf)
            self._write_full()

    def _write_full(self) -> None:
        while self._unwritten:
            tile = self._unwritten[0]
            write_tile(self._directory, self._storage, tile)
            self._unwritten.pop(0)

    def _checkpoint(self) -> None:
        for tile in self._tree.edge():
            self._storage.publish(self._directory / tile.path, tile.data())
        checkpoint = Checkpoint(self._origin, self._tree.size, self._tree.root())
        note = self._signer.sign(checkpoint.text())
        self._storage.publish(self._directory / CHECKPOINT, note)
        self._published = checkpoint.size
        for export in self._exports:
            try:
                export(note)
            except Exception:
                LOG.exception("audit: a checkpoint could not be exported")


def write_tile(directory: Path, storage: Storage, tile: Tile) -> None:
    """Publish a full tile and remove its partial predecessors, as tlog-tiles allows. Raises: OSError."""
    storage.publish(directory / tile.path, tile.data())
    partial = directory / Path(tile_path(tile.level, tile.index, 1)).parent
    if partial.is_dir():
        for path in partial.iterdir():
            path.unlink()
        partial.rmdir()
