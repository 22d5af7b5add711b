"""The codec by properties: what goes round comes round, and hostile tensors are refused before they cost anything."""

from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from demur.monitor.client import answer
from demur.monitor.client import request as client_request
from demur.monitor.errors import InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.service.codec import DTYPES, Limits, array, decode, encode
from demur.monitor.verdicts import PolicyView, Verdicts
from demur.proto.v1 import monitor_pb2 as pb
from tests.service.bundles import row_bundle

SMALL = Limits(rows=64, tensor_bytes=4096)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6)
POLICY = PolicyView("m", "b" * 64, 1, ("a", "b"), (), ())


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded.open(row_bundle())


def _tensor(values: np.ndarray, datatype: str) -> pb.Tensor:
    return pb.Tensor(name="t", datatype=datatype, shape=values.shape, raw=values.tobytes())


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", "<f4"), ("FP16", "<f2"), ("FP64", "<f8"), ("INT64", "<i8")])
@given(data=st.data())
def test_raw_contents_come_back_bit_for_bit(datatype, dtype, data):
    values = data.draw(hnp.arrays(dtype, SHAPES))
    found = array(_tensor(values, datatype))
    assert (found.shape, found.dtype) == (values.shape, values.dtype)
    assert found.tobytes() == values.tobytes()


@given(hnp.arrays("<f4", SHAPES))
def test_bfloat16_is_the_upper_half(values):
    upper = (values.view("<u4") >> 16).astype("<u2")
    found = array(_tensor(upper, "BF16"))
    assert found.dtype == np.float32
    assert found.view("<u4").tobytes() == ((values.view("<u4") >> 16) << 16).tobytes()


@given(hnp.arrays("<f4", SHAPES))
def test_repeated_contents_come_back(values):
    tensor = pb.Tensor(name="t", datatype="FP32", shape=values.shape, fp32=values.ravel().tolist())
    np.testing.assert_array_equal(array(tensor), values)


def test_raw_is_not_copied_and_wins():
    values = np.arange(4, dtype="<f4").reshape(1, 4)
    tensor = _tensor(values, "FP32")
    tensor.fp32.extend([9, 9, 9, 9])
    found = array(tensor)
    np.testing.assert_array_equal(found, values)
    assert not found.flags.owndata
    assert not found.flags.writeable


@settings(max_examples=300)
@given(
    datatype=st.sampled_from([*DTYPES, "", "FP8", "fp32"]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 70), max_size=10),
    raw=st.binary(max_size=300),
    fp32=st.lists(st.floats(width=32), max_size=8),
)
def test_any_tensor_is_an_array_or_a_refusal(datatype, shape, raw, fp32):
    tensor = pb.Tensor(name="t", datatype=datatype, shape=shape, raw=raw, fp32=fp32)
    try:
        found = array(tensor, SMALL)
    except InvalidObservation as error:
        said = str(error)
    else:
        said = "t: "
        assert list(found.shape) == shape
        assert len(found) <= SMALL.rows
        assert found.nbytes <= SMALL.tensor_bytes * 2  # BF16 widens
    assert said.startswith("t: ")


@pytest.mark.parametrize(
    "shape",
    [
        [0, 1 << 62],
        [1 << 4, 0, 1 << 62],
        [1 << 14, 1 << 15],
        [1 << 29, 1],
        [1, 1 << 29],
        [1 << 62, 1 << 62],
        [65536, 4],
    ],
)
def test_a_claim_allocates_nothing(shape):
    tensor = pb.Tensor(name="t", datatype="FP32", shape=shape, raw=b"" if 0 in shape else b"1234")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidObservation):
            array(tensor)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@settings(max_examples=200)
@given(raw=st.binary(max_size=120))
def test_bytes_that_parse_decode_or_are_refused(loaded, raw):
    try:
        request = pb.AssessRequest.FromString(raw)
    except Exception:
        return
    with contextlib.suppress(InvalidObservation):
        assert decode(request, loaded, SMALL).rows >= 0


@given(values=hnp.arrays("<f4", st.tuples(st.integers(1, 9), st.just(4))), data=st.data())
def test_an_observation_goes_round(loaded, values, data):
    ids = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(values), max_size=len(values)))
    names = [str(n) for n in range(len(values))]
    sent = client_request.check({"logits": values}, ids, None, names)
    request = client_request.encode(sent, monitor="m", request_id="r", model={"version": "7"})
    found = decode(pb.AssessRequest.FromString(request.SerializeToString()), loaded)
    assert found.signals["logits"].tobytes() == values.tobytes()
    assert found.grouping.names[found.grouping.index].tolist() == ids
    assert (list(found.ids), found.request, found.model["version"]) == (names, "r", "7")


BITS = st.integers(0, 255)


@st.composite
def verdicts(draw, count: int | None = None) -> Verdicts:
    n = draw(st.integers(1, 6)) if count is None else count
    reasons = np.array(draw(st.lists(BITS, min_size=n, max_size=n)), np.int64)
    floats = hnp.arrays("<f4", (n, 2))
    integers = hnp.arrays("<i8", n, elements=st.integers(0, 2**62))
    return Verdicts(
        POLICY, reasons == 0, reasons, draw(integers), draw(integers), draw(floats), draw(floats), ("a", "b"),
        actions=draw(hnp.arrays("u1", n, elements=st.integers(0, 5))), cause=draw(st.text(max_size=9)),
        sequence=draw(st.integers(0, 2**64 - 1)), audited=draw(st.booleans()), mode="enforce",
    )  # fmt: skip


@given(verdicts())
def test_verdicts_go_round(sent):
    wire = encode(sent, "r").SerializeToString()
    about = Observation({}, len(sent))
    found = answer.decode(pb.AssessResponse.FromString(wire), about, POLICY)
    for name in ("accept", "reason_bits", "rule_hits", "scores", "p_values", "actions"):
        assert getattr(found, name).tobytes() == getattr(sent, name).tobytes(), name
    if sent.rule_hits.any():  # a row that no rule refused has no rule whose threshold was pooled
        assert found.pooled.tolist() == sent.pooled.tolist()
    assert (found.cause, found.sequence, found.audited, found.mode, found.columns) == (
        sent.cause, sent.sequence, sent.audited, "enforce", ("a", "b"),
    )  # fmt: skip


@given(verdicts(count=3), st.data())
def test_an_answer_that_contradicts_itself_is_bad(sent, data):
    response = encode(sent)
    unit = data.draw(st.integers(0, 2))
    flipped = bytearray(response.rows.accept)
    flipped[unit] ^= 1
    broken = data.draw(
        st.sampled_from([
            {"accept": bytes(flipped)}, {"count": 4}, {"accept": b"\x00"}, {"scores": response.rows.scores[1:]},
            {"p_values": b""}, {"actions": b"1"}, {"accept": b"\x02" * 3},
        ])
    )  # fmt: skip
    for name, value in broken.items():
        setattr(response.rows, name, value)
    with pytest.raises(answer.BadAnswer):
        answer.decode(response, Observation({}, 3), POLICY)
