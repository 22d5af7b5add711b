"""Names and contents of tiles as C2SP tlog-tiles states them."""

import pytest

from demur.monitor.audit.merkle import leaf_hash, root
from demur.monitor.audit.tiles import Tile, Tree, parse_path, split_entries, tile_path


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (0, 0, 256, "tile/0/000"),
        (1, 999, 112, "tile/1/999.p/112"),
        (None, 1000, 256, "tile/entries/x001/000"),
        (63, 5, 1, "tile/63/005.p/1"),
    ],
)
def test_paths(level: int | None, index: int, width: int, path: str) -> None:
    assert tile_path(level, index, width) == path
    assert parse_path(path) == (level, index, width)


@pytest.mark.parametrize(
    "path",
    ["tile/0/0", "tile/00/000", "tile/64/000", "tile/0/x000/001", "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/000.p/01",
     "tile/0/001/x234", "tile/0/000/", "x/0/000", "tile/entries/000.p/999", "tile/0/../000"],
)  # fmt: skip
def test_other_spellings_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="tile"):
        parse_path(path)


def test_tiles_that_cannot_exist_are_refused() -> None:
    for args in ((64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)):
        with pytest.raises(ValueError, match="no tile"):
            tile_path(*args)


def test_a_tree_of_70000_has_the_tiles_the_specification_counts() -> None:
    tree, full = Tree(), []
    for i in range(70_000):
        full += tree.append(i.to_bytes(4, "big"))
    by_level = {level: sum(t.level == level for t in full) for level in (None, 0, 1, 2)}
    assert by_level == {None: 273, 0: 273, 1: 1, 2: 0}
    assert [(t.level, len(t.parts)) for t in tree.edge()] == [(None, 112), (0, 112), (1, 17), (2, 1)]


def test_a_tree_of_256_has_a_partial_tile_above() -> None:
    tree, leaves = Tree(), [str(i).encode() for i in range(256)]
    full = [tile for leaf in leaves for tile in tree.append(leaf)]
    assert [t.path for t in full] == ["tile/entries/000", "tile/0/000"]
    assert len(full[1].data()) == 8192
    assert [t.path for t in tree.edge()] == ["tile/1/000.p/1"]
    assert tree.edge()[0].data() == root([leaf_hash(leaf) for leaf in leaves]) == tree.root()


def test_bundles_are_length_prefixed_big_endian() -> None:
    tree = Tree()
    for leaf in (b"", b"ab", b"x" * 300):
        tree.append(leaf)
    bundle = tree.edge()[0].data()
    assert bundle[:6] == b"\0\0\0\2ab"
    assert bundle[6:8] == b"\x01\x2c"
    assert list(split_entries(bundle)) == [b"", b"ab", b"x" * 300]
    for cut in (1, 5, len(bundle) - 1):
        with pytest.raises(ValueError, match="cut short"):
            list(split_entries(bundle[:cut]))


def test_an_entry_that_no_bundle_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        Tree().append(bytes(65536))


def test_partial_predecessors_are_prefixes() -> None:
    tile = Tile(0, 0, (b"a" * 32, b"b" * 32))
    assert tile.data(1) == b"a" * 32
