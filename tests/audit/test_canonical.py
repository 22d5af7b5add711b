"""Our canonical JSON against the rfc8785 package."""

import math

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from demur.monitor.audit.canonical import canonical

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    TEXT | st.integers(-(2**53) + 1, 2**53 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_equals_the_rfc8785_package(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)


def test_every_character_of_the_first_planes_is_spelled_alike() -> None:
    for start in range(0, 0x20000, 0x800):
        text = "".join(chr(c) for c in range(start, start + 0x800) if not 0xD800 <= c <= 0xDFFF)
        assert canonical(text) == rfc8785.dumps(text)


def test_keys_are_ordered_by_utf16_code_units() -> None:
    value = {"\U0001f600": 1, "\ufb33": 2, "\u20ac": 3, "\r": 4, "1": 5, "\x80": 6, "\u00f6": 7}
    assert canonical(value) == rfc8785.dumps(value)
    assert canonical({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize(
    "value",
    [1.0, math.nan, True, None, b"x", 2**53, -(2**53), {1: "a"}, {"a": None}, [0.5], "\ud800", {"\udfff": 1}, {1}],
)
def test_what_has_no_one_spelling_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical(value)


def test_nesting_is_bounded() -> None:
    value: object = "x"
    for _ in range(40):
        value = [value]
    with pytest.raises(ValueError, match="deeper"):
        canonical(value)
