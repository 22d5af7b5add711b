"""ModelStreamInfer: order, pairing, both layouts, backpressure, cancellation, and a verdict for every answer."""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from demur.adapters.servers.oip import messages, wire
from demur.adapters.servers.oip.part import ERROR_MESSAGE, part
from demur.adapters.servers.oip.pending import Pending, Waiting
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.reading import Asked
from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Conduct
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.adapters.conftest import SERVICE, Stage, answer
from tests.adapters.fake_server import UNKNOWN, FakeServer, _field
from tests.adapters.test_oip_extras import image, same

STREAM = f"{SERVICE}ModelStreamInfer"
BLOCK = Conduct(mode="enforce", on_failure="block")


class Streaming(grpc.GenericRpcHandler):
    """A stream whose behaviour a test writes."""

    def __init__(self) -> None:
        self.script: Any = None
        self.context: Any = None

    def service(self, _details: Any) -> Any:
        def behaviour(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            self.context = context
            return self.script(requests, context)

        return grpc.stream_stream_rpc_method_handler(behaviour)


@pytest.fixture
def scripted() -> Iterator[Stage]:
    found = Stage(Streaming())
    yield found
    found.close()


def wrapped(message: ModelInferResponse) -> bytes:
    return _field(2, message.SerializeToString())


def both(stage: Stage, requests: list[bytes], **options: Any) -> tuple[list[bytes], list[bytes]]:
    return stage.streamed(stage.proxy(**options).address, requests), stage.streamed(stage.target, requests)


def same_part(one: bytes, other: bytes) -> bool:
    left, right = part(one), part(other)
    if left.answer is None or right.answer is None:
        return one == other
    return (
        same(left.answer.raw, right.answer.raw)
        and left.holding(b"") == right.holding(b"")
        and left.error == right.error
    )


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("outputs", [(), ("label", "scores"), ("label",), ("label:shared", "features")])
def test_every_answer_equals_a_direct_stream_and_is_judged(honest, outputs, unknown, plain):
    honest.upstream.unknown, honest.upstream.plain_stream = unknown, plain
    requests = [image(outputs, ident=str(n), rows=[1.0] * (n + 1)) for n in range(4)] + [
        image(outputs, ident="x", rows=[-1.0])
    ]
    through, direct = both(honest, requests)
    assert all(same_part(*pair) for pair in zip(through, direct, strict=True))
    if "scores" in outputs or not outputs:
        assert through == direct
    assert [e.verdicts.accept.tolist() for e in honest.decisions] == [[True] * n for n in range(1, 5)] + [[False]]
    assert {e.protocol for e in honest.decisions} == {"oip"}


def test_answers_out_of_order_are_paired_by_id(scripted):
    server = FakeServer()

    def script(requests, _context):
        for request in reversed([ModelInferRequest.FromString(r) for r in requests]):
            yield wrapped(server.answer(request))

    scripted.upstream.script = script
    requests = [image(("label",), ident="a"), image((), ident="b"), image(("label", "scores"), ident="c", rows=[-1.0])]
    through = [part(p).answer for p in scripted.streamed(scripted.proxy().address, requests)]
    assert [(p.names, part_id) for p, part_id in zip(through, "cba", strict=True)] == [
        (["label", "scores"], "c"), (["label", "name", "scores", "features"], "b"), (["label"], "a"),
    ]  # fmt: skip
    assert [e.verdicts.accept.tolist() for e in scripted.decisions] == [[False], [True, False], [True, False]]


@pytest.mark.parametrize("name", ["", "same"])
def test_without_ids_answers_are_paired_in_order(honest, name):
    requests = [image(("label",), ident=name), image((), ident=name, rows=[1.0]), image(("features",), ident=name)]
    through, direct = both(honest, requests)
    assert all(same_part(*pair) for pair in zip(through, direct, strict=True))
    assert [e.verdicts.accept.tolist() for e in honest.decisions] == [[True, False], [True], [True, False]]


def test_a_server_that_gives_every_answer_the_first_requests_id_is_paired_in_order(scripted):
    server = FakeServer()

    def script(requests, _context):
        first = ""
        for raw in requests:
            message = server.answer(ModelInferRequest.FromString(raw))
            first = message.id = first or message.id
            yield message.SerializeToString()

    scripted.upstream.script = script
    asked = [image(("label",), ident=str(n), rows=[1.0] * (n + 1)) for n in range(3)]
    through = [part(p).answer for p in scripted.streamed(scripted.proxy().address, asked)]
    assert [p.names for p in through] == [["label"]] * 3
    assert [e.verdicts.accept.tolist() for e in scripted.decisions] == [[True] * n for n in (1, 2, 3)]


def test_parts_of_decoupled_answers_abstain_and_pass(honest):
    honest.upstream.parts = 2
    through, direct = both(honest, [image(("label",), ident="1"), image(("label",), ident="2")])
    assert all(same_part(*pair) for pair in zip(through, direct, strict=True))
    causes = [e.verdicts.cause for e in honest.decisions]
    assert ["not its last" in c for c in causes] == [True, True, False] * 2
    assert "holds no outputs" in causes[2]
    assert not any(e.verdicts.accept.any() for e in honest.decisions)


def test_unmapped_models_pass_and_are_counted(honest):
    through, direct = both(honest, [image((), model="other")])
    assert through == direct
    assert [e.kind for e in honest.refusals] == ["unmapped"]
    (told,) = honest.streamed(honest.proxy(annotate=True).address, [image((), model="other")])
    parameters = part(told).head.parameters
    assert parameters["demur.verdict"].string_param == "ABSTAIN"
    assert "no monitor is mapped" in parameters["demur.cause"].string_param


def test_shared_memory_and_unreadable_parts_abstain(scripted):
    shared = answer([[5.0, 0, 0, 0]])
    shared.outputs[1].parameters["shared_memory_region"].string_param = "r"
    said = [wrapped(shared), b"\x12\x05abc", b"\xff", b""]
    scripted.upstream.script = lambda requests, _c: iter(said) if list(requests) else None
    assert scripted.streamed(scripted.proxy().address, [image()] * 4) == said
    causes = [e.verdicts.cause for e in scripted.decisions]
    assert "shared memory" in causes[0]
    assert ["not a readable" in c for c in causes[1:3]] == [True, True]
    assert "no outputs" in causes[3]
    assert not any(e.verdicts.accept.any() for e in scripted.decisions)


def test_errors_within_the_stream_pass(honest):
    honest.upstream.fails["label"] = grpc.StatusCode.INTERNAL, "the device is lost"
    through, direct = both(honest, [image(("label",), ident="1"), image(("features",), ident="2")])
    assert through[0] == direct[0]
    assert same_part(through[1], direct[1])
    assert len(honest.decisions) == 1


def test_a_rejected_extra_is_tried_once_more_within_the_stream(honest):
    honest.upstream.fails["scores"] = (
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected inference output 'scores' for model 'digits'",
    )
    requests = [image(("label",), ident=str(n)) for n in range(3)]
    through, direct = both(honest, requests)
    assert through == direct
    assert all("rejected output scores" in e.verdicts.cause for e in honest.decisions)
    assert len(honest.decisions) == 3


@pytest.mark.parametrize(
    ("text", "again"), [("scores: out of memory", False), ("unexpected inference output 'scores'", True)]
)
def test_a_sequence_in_a_stream_is_not_run_a_second_time(honest, text, again):
    honest.upstream.fails["scores"] = grpc.StatusCode.INTERNAL, text
    requests = [image(("label",), ident=str(n), sequence_id=5) for n in range(2)]
    proxy = honest.proxy()
    first = part(honest.streamed(proxy.address, requests[:1])[0])
    assert (first.answer is not None) is again
    assert len(honest.upstream.seen) == 1 + again
    assert same_part(honest.streamed(proxy.address, requests[1:])[0], honest.streamed(honest.target, requests[1:])[0])


def test_an_error_that_goes_on_without_the_added_output_blinds_nobody(scripted):
    said = [wire.delimited(ERROR_MESSAGE, b"no input 'scores' for model 'digits'")]
    scripted.upstream.script = lambda requests, _c: iter(said) if list(requests) else None
    proxy = scripted.proxy()
    assert scripted.streamed(proxy.address, [image(("label",), ident="1")]) == said
    assert scripted.decisions == []
    assert not proxy.models["digits"].rejections.of("")


def test_a_blocked_part_becomes_an_error_that_names_its_request(honest):
    requests = [image((), ident="1"), image((), ident="2", rows=[1.0])]
    through = honest.streamed(honest.proxy(conduct=BLOCK).address, requests)
    first = part(through[0])
    assert first.error.startswith("demur: 1 of 2 rows blocked; row 1: NOVEL")
    assert (first.id, first.answer) == ("1", None)
    assert first.head.parameters["demur.action"].string_param == "BLOCK"
    assert part(through[1]).answer.names[0] == "label"


def test_a_blocked_part_of_a_decoupled_answer_keeps_its_final_flag(honest):
    honest.upstream.parts = 1
    through = [part(p) for p in honest.streamed(honest.proxy(conduct=BLOCK).address, [image((), ident="1")])]
    assert [p.final for p in through] == [False, True]
    assert all(p.error and p.id == "1" for p in through)


def test_where_the_layout_has_no_errors_the_call_ends_with_the_status(honest):
    honest.upstream.plain_stream = True
    with pytest.raises(grpc.RpcError) as caught:
        honest.streamed(honest.proxy(conduct=BLOCK).address, [image()])
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert dict(caught.value.trailing_metadata())["demur-reasons"] == "NOVEL"


def test_replaced_rows_in_a_stream(honest):
    model = {"on_abstain": "replace", "replace": {"label": -1}}
    (raw,) = honest.streamed(honest.proxy(conduct=BLOCK, model=model).address, [image(("label",))])
    found = part(raw)
    assert found.answer.tensor("label").flat().tolist() == [3, -1]
    assert found.head.parameters["demur.action"].string_param == "REPLACE"


@pytest.mark.parametrize("annotate", ["parameters", "outputs"])
def test_annotations_stand_within_the_answer(honest, annotate):
    honest.upstream.unknown = True
    (raw,) = honest.streamed(honest.proxy(annotate=annotate).address, [image(("label",))])
    found = part(raw)
    assert found.head.parameters["demur.verdict"].string_param == "ABSTAIN"
    assert raw.startswith(UNKNOWN)
    if annotate == "outputs":
        assert found.answer.tensor("demur.accept").flat().tolist() == [True, False]


def test_status_details_and_metadata_of_the_end_are_passed_on(scripted):
    def script(requests, context):
        context.send_initial_metadata((("x-initial", "i"),))
        next(requests)
        yield wrapped(answer())
        context.set_trailing_metadata((("x-trailing", "t"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")

    scripted.upstream.script = script
    stream = scripted.channel(scripted.proxy().address).stream_stream(STREAM)
    call = stream(iter([image(), image()]), timeout=10, metadata=(("x-sent", "s"),))
    assert next(call) == wrapped(answer())
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")
    assert dict(call.initial_metadata())["x-initial"] == "i"
    assert dict(call.trailing_metadata())["x-trailing"] == "t"
    assert dict(scripted.upstream.context.invocation_metadata())["x-sent"] == "s"


def test_answers_come_while_the_client_still_sends(honest):
    asking: queue.Queue[bytes | None] = queue.Queue()
    stream = honest.channel(honest.proxy().address).stream_stream(STREAM)
    call = stream(iter(asking.get, None), timeout=10)
    for number in range(3):
        asking.put(image((), ident=str(number)))
        assert part(next(call)).id == str(number)
    asking.put(None)
    assert list(call) == []


def test_cancelling_reaches_upstream(scripted):
    gone = threading.Event()

    def script(requests, context):
        context.add_callback(gone.set)
        for _ in requests:
            yield wrapped(answer())
        gone.wait(10)

    scripted.upstream.script = script
    hold = threading.Event()

    def asking():
        yield image()
        hold.wait(10)

    call = scripted.channel(scripted.proxy().address).stream_stream(STREAM)(asking(), timeout=30)
    next(call)
    call.cancel()
    assert gone.wait(5)
    hold.set()


def test_the_deadline_ends_the_stream(scripted):
    release = threading.Event()

    def script(_requests, _context):
        release.wait(10)
        yield b""

    scripted.upstream.script = script
    with pytest.raises(grpc.RpcError) as caught:
        scripted.streamed(scripted.proxy().address, [image()], timeout=0.3)
    release.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_that_does_not_read_holds_upstream_back(scripted):
    sent = []
    large = answer([[5.0, 0, 0, 0]] * 20_000)  # 0.5 MB

    def script(requests, _context):
        next(requests)
        for number in range(200):
            sent.append(number)
            yield wrapped(large)

    scripted.upstream.script = script
    call = scripted.channel(scripted.proxy().address).stream_stream(STREAM)(iter([image()]), timeout=30)
    next(call)
    before = -1
    while before != len(sent):
        before = len(sent)
        time.sleep(0.3)
    assert before < 60
    call.cancel()


def test_no_more_streams_than_configured(scripted):
    release = threading.Event()

    def script(requests, _context):
        next(requests)
        yield wrapped(answer())
        release.wait(10)

    scripted.upstream.script = script
    proxy = scripted.proxy(document={"streams": 1})
    stream = scripted.channel(proxy.address).stream_stream(STREAM)
    held = stream(iter([image()]), timeout=10)
    next(held)
    with pytest.raises(grpc.RpcError) as caught:
        scripted.streamed(proxy.address, [image()])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "proxy.streams" in caught.value.details()
    release.set()
    assert list(held) == []
    assert scripted.streamed(proxy.address, [image()]) == [wrapped(answer())]


def test_a_message_too_large_once_unpacked_ends_the_stream_and_says_whose_limit_it_was(scripted):
    scripted.upstream.script = lambda requests, _c: (wrapped(answer()) for _ in requests)
    proxy = scripted.proxy(limits=LimitsConfig(message_bytes=1 << 12))
    with pytest.raises(grpc.RpcError) as caught:
        scripted.streamed(proxy.address, [image(rows=[1.0] * 5000)], compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_awaits_answers_is_bounded():
    def waiting(name: str, size: int = 0) -> Waiting:
        return Waiting(Asked(model="m", id=name), Plan(), b"x" * size)

    few = Pending(most=3, most_bytes=10)
    assert few.add(waiting("a", 8))
    assert not few.add(waiting("b", 8))
    assert few.add(waiting("a")) and few.add(waiting(""))  # noqa: PT018
    assert not few.add(waiting("c"))
    assert few.answered("a", final=False).request
    assert few.answered("a", final=True).request
    assert few.answered("a", final=True).request == b""
    assert few.answered("a", final=True).asked.id == ""  # the oldest, for an id that nobody waits for
    assert few.answered("a", final=True) is None
    assert few.answered("", final=True) is None
    assert len(few) == 0
    assert few.add(waiting("d", 10))


def holds_a_large_message(*functions: Any) -> bool:
    """Whether bytes of more than 1 MB can be reached from what these functions close over."""
    found = list(functions)
    for _ in range(4):
        found = [r for o in found for r in gc.get_referents(o) if not isinstance(r, dict | type)]
        if any(isinstance(o, bytes) and len(o) > 1 << 20 for o in found):
            return True
    return False


def test_requests_that_await_answers_do_not_keep_their_tensors(scripted):
    server = FakeServer()

    def script(requests, _context):
        for raw in requests:
            yield wrapped(
                server.answer(ModelInferRequest(model_name="digits", id=ModelInferRequest.FromString(raw).id))
            )

    scripted.upstream.script = script
    large = [image((), ident=str(n), rows=[1.0] * 350_000) for n in range(3)]
    whole = messages.asked(large[0])
    assert holds_a_large_message(whole.shapes, whole.inputs)
    kept = []

    class Watched(Pending):
        def add(self, waiting):
            kept.append(waiting)
            return super().add(waiting)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("demur.adapters.servers.oip.stream.Pending", Watched)
        scripted.streamed(scripted.proxy().address, large)
    assert [w.request for w in kept] == [b""] * 3
    assert not any(holds_a_large_message(w.asked.shapes, w.asked.inputs) for w in kept)
    assert [list(map(list, w.asked.shapes())) for w in kept] == [[[350_000, 3]]] * 3


def test_a_crowd_of_requests_is_not_added_to(scripted, monkeypatch):
    monkeypatch.setattr("demur.adapters.servers.oip.stream.Pending", lambda **_: Pending(most=2))
    server, go = FakeServer(), threading.Event()

    def script(requests, _context):
        for request in [ModelInferRequest.FromString(r) for r in requests]:
            yield wrapped(server.answer(request))
        go.set()

    scripted.upstream.script = script
    through = scripted.streamed(scripted.proxy().address, [image(("label",), ident=str(n)) for n in range(4)])
    assert [part(p).answer.names for p in through] == [["label"]] * 4
    assert [e.verdicts.accept.any() for e in scripted.decisions] == [True, True, False, False]
