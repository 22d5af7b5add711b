"""The tiles on disk, held against those that the journal gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from demur.monitor.audit.tiles import WIDTH, Tile, Tree, parse_path, tile_path

_Place = tuple[int | None, int]


class Shelf:
    """Every file under `tile/`, listed before the journal is read so that a log in use only grows meanwhile."""

    def __init__(self, directory: Path, blame: Callable[[str], None]) -> None:
        self._directory, self._blame = directory, blame
        self._found: dict[_Place, set[int]] = {}
        self._seen: dict[_Place, int] = {}  # the widest good file of each place
        self._bad: set[str] = set()
        for path in sorted((directory / "tile").rglob("*")):
            if path.is_dir() or (path.name.startswith(".") and path.name.endswith(".tmp")):
                continue
            name = path.relative_to(directory).as_posix()
            try:
                level, index, width = parse_path(name)
            except ValueError:
                blame(f"{name}: not the name of a tile")
                continue
            self._found.setdefault((level, index), set()).add(width)

    def check(self, tile: Tile) -> None:
        """Hold every file of this tile's place against its parts."""
        place = tile.level, tile.index
        for width in sorted(self._found.pop(place, ())):
            name = tile_path(*place, width)
            try:
                data = (self._directory / name).read_bytes()
            except FileNotFoundError:
                continue  # a partial tile goes when its full one comes; `close` looks for what must be there
            except OSError as error:
                self._blame(f"{name}: {error.strerror}")
                continue
            if width > len(tile.parts) or data != tile.data(width):
                self._bad.add(name)
                self._blame(f"{name}: differs from the journal")
            else:
                self._seen[place] = max(width, self._seen.get(place, 0))

    def close(self, tree: Tree, size: int) -> None:
        """Check the tree's right edge, then that every tile a checkpoint of `size` needs was seen and no other is there."""
        for tile in tree.edge():
            self.check(tile)
        for level, index in self._found:
            self._blame(f"{tile_path(level, index)}: holds what the journal lacks")
        for level, index, width in _needed(min(size, tree.size)):
            name = tile_path(level, index, width)
            if self._seen.get((level, index), 0) < width and not self._full(level, index) and name not in self._bad:
                self._blame(f"{name}: missing, the checkpoint needs it")

    def _full(self, level: int | None, index: int) -> bool:
        """Whether the full tile came after the listing: then it was written from the journal meanwhile."""
        return (level, index) in self._seen and (self._directory / tile_path(level, index)).exists()


def _needed(size: int) -> Iterator[tuple[int | None, int, int]]:
    level, hashes = 0, size
    while hashes:
        for index in range(-(-hashes // WIDTH)):
            width = min(WIDTH, hashes - index * WIDTH)
            yield level, index, width
            if level == 0:
                yield None, index, width
        level, hashes = level + 1, hashes // WIDTH
