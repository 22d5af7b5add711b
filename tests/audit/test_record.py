"""Leaves: canonical, bounded, readable back."""

import json
from typing import get_args

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from demur.monitor.audit.record import LEAF_BYTES, InvalidRecord, Kind, Record, bounded

TEXT = st.text(alphabet=st.characters(), max_size=600)
COUNT = st.integers(0, 2**53 - 1)
RECORDS = st.builds(
    Record,
    kind=st.sampled_from(get_args(Kind)),
    rows=COUNT,
    accepted=COUNT,
    count=st.integers(0, 2**64),
    reasons=st.dictionaries(TEXT, COUNT, max_size=20),
    time_ns=st.integers(1, 2**63),
    sequence=st.integers(0, 2**63),
    **dict.fromkeys(("monitor", "bundle", "request", "model_name", "model_version", "model_digest", "action", "mode", "cause", "environment", "block", "commitment", "target", "note"), TEXT),
)  # fmt: skip


@given(RECORDS)
def test_a_leaf_is_canonical_bounded_and_reads_back(record: Record) -> None:
    leaf = record.leaf()
    assert leaf == rfc8785.dumps(json.loads(leaf))
    assert len(leaf) <= LEAF_BYTES
    assert Record.parse(leaf).leaf() == leaf


def test_the_worst_strings_still_fit() -> None:
    for worst in ("\x00" * 9999, '"' * 9999, "\U0001f600" * 9999, "\ud800" * 9999, "\u20ac" * 9999, "é" * 9999):
        strings = {
            n: worst for n in Record.__slots__ if isinstance(getattr(Record(kind="start"), n), str) and n != "kind"
        }
        big = 2**63
        record = Record(
            kind="recovery", rows=big, accepted=big, count=2**64, sequence=big, time_ns=big, clock_max_ns=big,
            reasons={f"{i}{worst}": big for i in range(40)}, **strings,
        )  # fmt: skip
        leaf = record.leaf()
        assert len(leaf) <= LEAF_BYTES
        assert Record.parse(leaf).leaf() == leaf


def test_numbers_that_json_readers_round_are_strings() -> None:
    said = json.loads(Record(kind="drop", count=2**60, sequence=2**60, time_ns=2**62).leaf())
    assert (said["count"], said["sequence"], said["time_ns"]) == (str(2**60), str(2**60), str(2**62))


def test_a_long_string_is_cut_and_says_so() -> None:
    assert bounded("short", 64) == "short"
    cut = bounded("x" * 500, 64)
    kept, _, missing = cut.partition("…[+")
    assert len(kept) + int(missing[:-1]) == 500
    assert 48 < len(kept) < 64


def test_a_clock_that_goes_back_is_recorded_as_it_is_and_marked() -> None:
    assert Record(kind="verdict").time(100, 250) == (100, 250)
    assert Record(kind="verdict").time(300, 250) == (300, 0)
    assert Record(kind="verdict", time_ns=7).time(300, 0) == (7, 0)
    said = json.loads(Record(kind="verdict").leaf_at(5, 100, 250))
    assert (said["sequence"], said["time_ns"], said["clock_max_ns"]) == ("5", "100", "250")


def test_every_other_spelling_is_refused() -> None:
    leaf = Record(kind="verdict", monitor="digits", rows=3, reasons={"NOVEL": 1}).leaf_at(1, 2, 0)
    assert Record.parse(leaf).monitor == "digits"
    bad = [
        leaf + b" ", leaf[:-1], b"", b"[]", b"\xff", b"[" * 5000, leaf.replace(b'"rows":3', b'"rows":3.0'),
        leaf.replace(b'"rows":3', b'"rows":true'), leaf.replace(b'"digits"', b'"d\\u0069gits"'),
        leaf.replace(b'"sequence":"1"', b'"sequence":"01"'), leaf.replace(b"demur.audit/1", b"demur.audit/2"),
        leaf.replace(b'"kind":"verdict"', b'"kind":"other"'), leaf.replace(b'"kind":"verdict"', b'"kind":[]'), leaf.replace(b'"monitor":', b'"monitoR":'),
        leaf.replace(b'"reasons":{"NOVEL":1}', b'"reasons":[]'), leaf.replace(b'"monitor":"digits"', b'"monitor":7'),
    ]  # fmt: skip
    for other in bad:
        assert other != leaf
        with pytest.raises(InvalidRecord):
            Record.parse(other)
