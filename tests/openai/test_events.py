"""Server-sent events, however they are cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.adapters.servers.openai.events import Events


def whole(raw: bytes) -> list[bytes]:
    """WHATWG's rules, over a whole stream: an independent reading."""
    text = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found, data = [], []
    for line in [*text.split(b"\n"), b""]:
        if not line:
            if data:
                found.append(b"\n".join(data))
            data = []
        elif line == b"data" or line.startswith(b"data:"):
            value = line[5:]
            data.append(value[1:] if value.startswith(b" ") else value)
    return found


def read(chunks) -> list[bytes]:
    events = Events()
    found = [e for c in chunks for e in events.feed(c)]
    return [*found, *events.rest()]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata:a\r\n\r\n", [b"a"]),
        (b": comment\nevent: x\nid: 3\ndata: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a", [b"a"]),
        (b"data\n\n", [b""]),
        (b"event: only\n\n", []),
        (b"data:  two spaces\r\r", [b" two spaces"]),
        (b"", []),
    ],
)
def test_events(raw, expected):
    assert read([raw]) == expected == whole(raw)


@given(
    st.lists(
        st.sampled_from([b"data: x", b"data:", b"\n", b"\r", b"\r\n", b": c", b"a", b"\xff", b"event: e"]), max_size=20
    ),
    st.integers(0, 99),
)
def test_where_chunks_are_cut_does_not_matter(parts, seed):
    raw, chance = b"".join(parts), random.Random(seed)
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.randrange(6)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert read(chunks) == whole(raw)


def test_what_is_held_is_what_has_not_ended():
    events = Events()
    assert list(events.feed(b"data: 1\n\ndata: 23")) == [b"1"]
    assert events.size == len(b"data: 23")
