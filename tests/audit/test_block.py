"""Verdict blocks round-trip bit by bit and refuse every other length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from demur.monitor.audit.block import InvalidBlock, VerdictBlock, digest


@st.composite
def blocks(draw: st.DrawFn, *, grouped: bool = True) -> VerdictBlock:
    rows, width = draw(st.integers(0, 20)), draw(st.integers(0, 4))
    table = hnp.arrays(np.float32, (rows, width), elements=st.floats(width=32))
    return VerdictBlock(
        tuple(draw(st.lists(st.text(max_size=80), min_size=width, max_size=width))),
        draw(table), draw(table), draw(hnp.arrays(np.int64, rows)), draw(hnp.arrays(np.bool_, rows)),
        draw(st.none() | blocks(grouped=False)) if grouped else None,
    )  # fmt: skip


@given(blocks())
def test_round_trip(block: VerdictBlock) -> None:
    data = block.encode()
    back = VerdictBlock.decode(data)
    assert back.encode() == data
    np.testing.assert_array_equal(back.scores, block.scores)
    np.testing.assert_array_equal(back.p_values, block.p_values)
    np.testing.assert_array_equal(back.reasons, block.reasons)
    np.testing.assert_array_equal(back.accept, block.accept)
    assert (back.groups is None) == (block.groups is None)


def example() -> VerdictBlock:
    scores = np.array([[1, np.nan], [np.inf, -0.0], [3, 4]], np.float32)
    return VerdictBlock(("msp", "knn"), scores, scores / 9, np.array([0, 1, 64]), np.array([True, False, False]))


def test_the_layout_is_the_documented_one() -> None:
    data = example().encode()
    assert data[:8] == b"DMVB\1\0\1\0"
    assert data[8:14] == b"\3\0\0\0\2\0"
    assert data[14:24] == b"\3\0msp\3\0knn"
    assert data[24:36] == np.array([1, np.inf, 3], "<f4").tobytes()
    assert data[-1] == 0b001
    assert len(digest(data)) == 64
    assert digest(b"") == ""


def test_every_cut_and_every_claim_is_refused() -> None:
    data = example().encode()
    for end in range(len(data)):
        with pytest.raises(InvalidBlock):
            VerdictBlock.decode(data[:end])
    for bad in (data + b"\0", data[:8] + b"\xff\xff\xff\xff" + data[12:], data[:-1] + b"\x81", b"X" + data[1:]):
        with pytest.raises(InvalidBlock):
            VerdictBlock.decode(bad)


def test_columns_that_do_not_fit_are_refused() -> None:
    one = example()
    with pytest.raises(InvalidBlock, match="expected scores"):
        VerdictBlock(("msp",), one.scores, one.p_values, one.reasons, one.accept).encode()
