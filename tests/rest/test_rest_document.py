"""Cutting members out of JSON and putting some in: what is kept is kept to the character."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from time import process_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.adapters.servers.oip.reading import UnreadableOutputError
from demur.adapters.servers.oip.rest import coding, headers
from demur.adapters.servers.oip.rest.body import chunks
from demur.adapters.servers.oip.rest.coding import CodingError, TooLargeError
from demur.adapters.servers.oip.rest.document import Document, MalformedError
from demur.adapters.servers.oip.rest.path import Target, target
from demur.adapters.servers.oip.rest.tensor import listed, rewritten, tensor

SPACE = st.text(" \t\n\r", max_size=3)
ELEMENT = st.sampled_from(['{"a":1}', "[1.50, 2e3]", '"x,]}"', "NaN", "-0.0", "null", '{"b":{"c":["]"]}}', "true"])


@st.composite
def arrays(draw):
    """The text of an object with an array, its elements as they are written, and some of their places."""
    elements = draw(st.lists(ELEMENT, max_size=6))
    inner = ",".join(f"{draw(SPACE)}{e}{draw(SPACE)}" for e in elements) or draw(SPACE)
    before, after = draw(st.sampled_from(["", '"k":"[",'])), draw(st.sampled_from(["", ',"z" : 1.10']))
    text = f'{draw(SPACE)}{{{draw(SPACE)}{before}"o"{draw(SPACE)}:{draw(SPACE)}[{inner}]{after}{draw(SPACE)}}}{draw(SPACE)}'
    return text, elements, draw(st.sets(st.integers(0, len(elements) - 1))) if elements else set()


@given(arrays())
def test_what_is_kept_is_kept_to_the_character(case):
    text, elements, gone = case
    found = Document(text, ("o",))
    assert [text[e.start : e.end] for e in found.elements["o"]] == elements
    edited = found.without("o", gone).of(text)
    again = Document(edited, ("o",))
    assert [edited[e.start : e.end] for e in again.elements["o"]] == [
        e for i, e in enumerate(elements) if i not in gone
    ]
    start, end = found.members["o"].start, found.members["o"].end
    assert edited.startswith(text[:start])
    assert edited.endswith(text[end:])


@given(arrays(), st.lists(ELEMENT, min_size=1, max_size=3))
def test_what_is_added_stands_behind_and_nothing_else_moves(case, more):
    text, elements, _ = case
    edited = Document(text, ("o",)).appended("o", more).of(text)
    again = Document(edited, ("o",))
    assert [edited[e.start : e.end] for e in again.elements["o"]] == elements + more
    other = Document(text, ("o",)).appended("new", more).of(text)
    assert (
        Document(other, ("new",)).elements["new"][0].value
        == Document(f'{{"n":[{more[0]}]}}', ("n",)).elements["n"][0].value
        or "NaN" in more
    )


@given(st.text(max_size=30) | st.binary(max_size=30).map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_any_text_is_read_as_python_reads_it_or_refused(text):
    try:
        found = Document(text, ("o",))
    except MalformedError:
        return
    assert {k: v.value for k, v in found.members.items()} == json.loads(text)


def test_a_small_text_of_very_many_lists_is_refused_before_they_are_made():
    with pytest.raises(MalformedError, match="lists and objects"):
        Document('{"o":[' + "[]," * (1 << 20) + "[]]}", ("o",))


@pytest.mark.parametrize("sizes", [[16, 17], [16], [-1, 33], [True, 31], [1.5, 30.5], [1 << 70], ["32"]])
def test_sizes_that_do_not_add_up_are_refused(sizes):
    with pytest.raises(MalformedError, match="bytes"):
        chunks([{"parameters": {"binary_data_size": s}} for s in sizes], b"x" * 32)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "INT64", "UINT8", "BOOL", "BYTES"])
def test_tensors_go_to_json_and_back(datatype, nested):
    values = np.array([[0, 1, 0], [1, 1, 0]])
    array = {
        "BOOL": values.astype(bool),
        "BYTES": np.array([[b"a", b"\xc3\xa9", b"\xff"], [b"", b'"', b"]"]], object),
        "INT64": values * (1 << 62),
        "UINT8": values.astype(np.uint8) * 255,
    }.get(datatype, values * np.float32(0.1))
    data = json.loads(listed(array, datatype, nested=nested))
    assert isinstance(data[0], list) is nested
    found = tensor({"name": "t", "datatype": datatype, "shape": [2, 3], "data": data}, None).array(1 << 20)
    if datatype == "FP16":
        array = array.astype(np.float16)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("datatype", ["FP32", "INT64"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_long_word_among_numbers_takes_no_more_memory_than_itself(datatype, nested):
    data = ["x" * (1 << 14), *[""] * 4095]
    element = {"name": "o", "datatype": datatype, "shape": [4096], "data": [data] if nested else data}
    tracemalloc.start()
    with pytest.raises(UnreadableOutputError, match=f"not of {datatype}"):
        tensor(element, None).flat()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20  # NumPy would take 256 MiB


def test_lists_nested_too_deep_for_a_tensor_are_refused():
    deep = json.loads("[" * 800 + '"a"' + "]" * 800)
    for datatype in ("FP32", "BYTES"):
        with pytest.raises(UnreadableOutputError, match="output o"):
            tensor({"name": "o", "datatype": datatype, "shape": [2], "data": deep}, None).flat()


@pytest.mark.parametrize("name", ["\ud800", "\xfc"])
def test_an_element_of_any_name_can_be_written_again(name):
    element = json.loads(json.dumps({"name": name, "datatype": "FP32", "shape": [1], "data": [1.0]}))
    text, _ = rewritten(element, np.array([2.0], np.float32), binary=False)
    found = json.loads(text.encode("utf-8", "surrogateescape"))
    assert found == element | {"data": [2.0]}


def test_codings_are_bounded_and_named():
    for name in ("gzip", "deflate"):
        assert coding.decoded(coding.encoded(b"a" * 1000, name), name, 1000) == b"a" * 1000
        with pytest.raises(TooLargeError, match="= 999"):
            coding.decoded(coding.encoded(b"a" * 1000, name), name, 999)
        with pytest.raises(CodingError, match=name):
            coding.decoded(coding.encoded(b"a" * 1000, name)[:-5], name, 1000)
    assert coding.decoded(coding.encoded(b"a", "gzip") * 3, "gzip", 3) == b"aaa"
    with pytest.raises(CodingError, match="too many members"):
        coding.decoded(coding.encoded(b"", "gzip") * 100_000, "gzip", 1000)
    bare = zlib.compressobj(wbits=-15)
    assert coding.decoded(bare.compress(b"aaa") + bare.flush(), "deflate", 3) == b"aaa"
    with pytest.raises(CodingError, match="behind its end"):
        coding.decoded(coding.encoded(b"a", "deflate") + b"more", "deflate", 10)
    with pytest.raises(CodingError, match="gzip, br"):
        coding.coding("gzip, br")


def test_members_in_front_of_a_large_body_cost_no_copies_of_it():
    large = np.random.default_rng(1).bytes(48 << 20)
    packed = coding.encoded(b"", "gzip") * 60 + zlib.compress(large, 0, wbits=31)
    began = process_time()
    assert coding.decoded(packed, "gzip", 64 << 20) == large
    assert process_time() - began < 2.0  # one copy for each member took 6


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/v2/models/m/infer", Target("m", "", infer=True)),
        (b"/v2/models/m/versions/2/infer", Target("m", "2", infer=True)),
        (b"/v2/models/a%20b/infer/", Target("a b", "", infer=True)),
        (b"/v2/models/m/generate", Target("m", "", infer=False)),
        (b"/v1/models/m:predict", Target("m", "", infer=False)),
        (b"/v1/models/m/versions/3:regress", Target("m", "3", infer=False)),
        ("/v2/models/\xfc/infer".encode(), Target("\xfc", "", infer=True)),
        (b"/v2/models/%C3%BC/infer#/ready?a", Target("\xfc", "", infer=True)),
        (b"/v2/models/m/infer%23x", None),
        (b"/v2/models/m", None),
        (b"/v2/models/m/ready", None),
        (b"/v2/repository/models/m/load", None),
        (b"/V2/models/m/infer", None),
        (b"*", None),
        (b"/v2/models/\xff/infer", Target("\ufffd", "", infer=True)),
    ],
)
def test_paths(path, found):
    assert target(path) == found


def test_headers_change_in_their_place():
    given_ = [(b"A", b"1"), (b"Content-Length", b"5"), (b"a", b"2")]
    assert headers.value(given_, b"a") == "1, 2"
    changed = headers.changed(given_, {b"content-length": "7", b"new": "x", b"a": None})
    assert changed == [(b"Content-Length", b"7"), (b"new", b"x")]
