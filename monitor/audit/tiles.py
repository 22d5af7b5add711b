"""The tree as static files. Pure: names and bytes, no IO.

Source: C2SP tlog-tiles: `tile/<L>/<N>[.p/<W>]` holds up to 256 hashes, `tile/entries/<N>[.p/<W>]` up to 256 entries, each
behind its length as a big-endian uint16; N is written as x001/x234/067.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from demur.monitor.audit.merkle import CompactRange, leaf_hash, root

WIDTH = 256
ENTRY_BYTES = 65535
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


def tile_path(level: int | None, index: int, width: int = WIDTH) -> str:
    """Where a tile (level None: a bundle of entries) is kept; `width` below 256 is a partial tile.

    Raises: ValueError outside level 0..63, index >= 0, width 1..256.
    """
    if not (level is None or 0 <= level <= 63) or index < 0 or not 1 <= width <= WIDTH:
        raise ValueError(f"tile: no tile has level {level}, index {index}, width {width}")
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{'entries' if level is None else level}/{'/'.join(groups)}{partial}"


def parse_path(path: str) -> tuple[int | None, int, int]:
    """(level, index, width) of a tile's path. Raises: ValueError unless it is spelled as `tile_path` spells it."""
    match = _PATH.fullmatch(path)
    if match:
        level = None if match[1] == "entries" else int(match[1])
        index = int(match[2].replace("x", "").replace("/", ""))
        width = int(match[3] or WIDTH)
        if (level or 0) <= 63 and width <= WIDTH and tile_path(level, index, width) == path:
            return level, index, width
    raise ValueError(f"tile: {path!r} is not the name of a tile")


def entry(leaf: bytes) -> bytes:
    """One entry of a bundle. Raises: ValueError beyond 65535 bytes."""
    if len(leaf) > ENTRY_BYTES:
        raise ValueError(f"tile entry: expected at most {ENTRY_BYTES} bytes, got {len(leaf)}")
    return len(leaf).to_bytes(2, "big") + leaf


def split_entries(bundle: bytes) -> Iterator[bytes]:
    """The leaves of a bundle. Raises: ValueError when it is cut short."""
    at = 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        leaf = bundle[at + 2 : at + 2 + length]
        if at + 2 > len(bundle) or len(leaf) != length:
            raise ValueError(f"tile entries: cut short at byte {at}")
        yield leaf
        at += 2 + length


@dataclass(frozen=True)
class Tile:
    """One tile or bundle of entries and the parts it consists of."""

    level: int | None
    index: int
    parts: tuple[bytes, ...]

    @property
    def path(self) -> str:
        """Its name under the log's prefix."""
        return tile_path(self.level, self.index, len(self.parts))

    def data(self, width: int | None = None) -> bytes:
        """The file's bytes, or those of its partial predecessor of `width` parts."""
        return b"".join(self.parts[:width])


@dataclass
class Tree:
    """A growing log: its root, and the tiles at its right edge. Memory: 256 leaves and 256 hashes a level."""

    peaks: CompactRange = field(default_factory=CompactRange)
    _entries: list[bytes] = field(default_factory=list)
    _levels: list[list[bytes]] = field(default_factory=lambda: [[]])
    _counts: list[int] = field(default_factory=lambda: [0])  # full tiles so far, by level

    @property
    def size(self) -> int:
        """Leaves so far."""
        return self.peaks.size

    def root(self) -> bytes:
        """The Merkle tree hash now."""
        return self.peaks.root()

    def append(self, leaf: bytes) -> list[Tile]:
        """Add a leaf; returns the tiles that this leaf has made full."""
        hashed = leaf_hash(leaf)
        self.peaks.append(hashed)
        self._entries.append(entry(leaf))
        full: list[Tile] = []
        if len(self._entries) == WIDTH:
            full.append(Tile(None, self._counts[0], tuple(self._entries)))
            self._entries = []
        self._raise(0, hashed, full)
        return full

    def _raise(self, level: int, hashed: bytes, full: list[Tile]) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._counts.append(0)
        hashes = self._levels[level]
        hashes.append(hashed)
        if len(hashes) < WIDTH:
            return
        full.append(Tile(level, self._counts[level], tuple(hashes)))
        self._levels[level] = []
        self._counts[level] += 1
        self._raise(level + 1, root(hashes), full)

    def edge(self) -> list[Tile]:
        """The partial tiles that a checkpoint of this size needs."""
        tiles = [Tile(level, self._counts[level], tuple(hashes)) for level, hashes in enumerate(self._levels) if hashes]
        if self._entries:
            tiles.insert(0, Tile(None, self._counts[0], tuple(self._entries)))
        return tiles
