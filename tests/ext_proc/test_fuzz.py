"""Messages in any order: no hang, no crash, one answer each, and no answer of the model's passes unjudged in enforce."""

from __future__ import annotations

import json
import queue
import threading

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.adapters.servers.ext_proc.conversation import Conversation
from demur.adapters.servers.ext_proc.order import ProtocolError
from demur.proto.envoy import external_processor_pb2 as pb
from tests.ext_proc.conftest import BAD, CHAT, GOOD, PATH, ask, choice, completion, infer, scores

PARTS = [
    "request_headers",
    "request_body",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_trailers",
]
VALUES = st.sampled_from(
    [PATH, CHAT, "/v2/models/digits/generate", "/x", "", "200", "204", "500", "xyz", "gzip", "br", "text/event-stream", "application/json", "0", "7", "999", "\r\n", "é"]
)  # fmt: skip
NAMES = st.sampled_from(
    [":path", ":method", ":status", "content-type", "content-encoding", "content-length", "inference-header-content-length", "accept-encoding", "traceparent", "demur-verdict", "X-Odd"]
)  # fmt: skip
BODIES = st.one_of(
    st.sampled_from(
        [b"", infer(), infer(outputs=["label"]), scores(GOOD), scores(BAD), ask(logprobs=True), ask(stream=True),
         completion(choice(-0.1)), completion(choice(-5.0)), b"data: [DONE]\n\n", b"{", b"\x1f\x8b", scores(GOOD)[:50]]
    ),
    st.binary(max_size=40),
)  # fmt: skip
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@st.composite
def messages(draw):
    message = pb.ProcessingRequest(observability_mode=draw(st.sampled_from([False, False, False, True])))
    part = draw(st.sampled_from([*PARTS, None]))
    if draw(st.booleans()):
        message.protocol_config.request_body_mode = draw(st.integers(0, 7))
        message.protocol_config.response_body_mode = draw(st.integers(0, 7))
    if part is None:
        return message
    getattr(message, part).SetInParent()
    fill(draw, part, getattr(message, part))
    return message


def fill(draw, part, content):
    if part.endswith("body"):
        content.body, content.end_of_stream = draw(BODIES), draw(st.booleans())
        return
    found = dict(draw(HEADERS))
    if part == "request_headers" and draw(st.booleans()):
        found |= {":method": "POST", ":path": draw(st.sampled_from([PATH, CHAT]))}
    if part == "response_headers" and draw(st.booleans()):
        found[":status"] = "200"
    values = content.trailers if part.endswith("trailers") else content.headers
    for name, value in found.items():
        values.headers.add(key=name, raw_value=value.encode())
    if not part.endswith("trailers"):
        content.end_of_stream = draw(st.booleans())


@st.composite
def exchanges(draw):
    """Either anything, or a whole good exchange with up to three things done to it."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.lists(messages(), max_size=9))
    found = whole(*draw(st.sampled_from(KINDS)))
    modes = draw(st.sampled_from([None, (2, 2), (2, 2), (3, 3), (1, 1), (0, 0), (4, 4), (2, 1)]))
    if modes is not None:
        found[0].protocol_config.request_body_mode, found[0].protocol_config.response_body_mode = modes
    for _ in range(draw(st.integers(0, 3))):
        harm(draw, found)
    return found


KINDS = [
    (PATH, infer(), scores(GOOD)),
    (PATH, infer(), scores(BAD)),
    (PATH, infer(outputs=["label"]), scores(GOOD)),
    (CHAT, ask(logprobs=True), completion(choice(-0.1))),
    (CHAT, ask(logprobs=True), completion(choice(-5.0))),
]


def whole(path, request, answer):
    found = [pb.ProcessingRequest() for _ in range(4)]
    head = {":method": "POST", ":path": path, "content-length": str(len(request))}
    said = {":status": "200", "content-type": "application/json", "content-length": str(len(answer))}
    for message, part, values in ((found[0], "request_headers", head), (found[2], "response_headers", said)):
        for name, value in values.items():
            getattr(message, part).headers.headers.add(key=name, raw_value=value.encode())
    found[1].request_body.body, found[1].request_body.end_of_stream = request, True
    found[3].response_body.body, found[3].response_body.end_of_stream = answer, True
    return found


def harm(draw, found):
    place = draw(st.integers(0, len(found) - 1)) if found else 0
    what = draw(st.sampled_from(["drop", "double", "swap", "cut", "fill", "flag", "header", "insert", "watch"]))
    if not found or what == "insert":
        found.insert(place, draw(messages()))
        return
    message = found[place]
    part = message.WhichOneof("request")
    if what == "drop":
        del found[place]
    elif what == "double":
        found.insert(place, pb.ProcessingRequest.FromString(message.SerializeToString()))
    elif what == "swap":
        found[place], found[-1] = found[-1], found[place]
    elif what == "watch":
        for each in found if draw(st.booleans()) else [message]:
            each.observability_mode = True
    elif part is not None and part.endswith("body"):
        content = getattr(message, part)
        if what == "cut":
            size = draw(st.integers(0, len(content.body)))
            rest = pb.ProcessingRequest()
            getattr(rest, part).CopyFrom(content)
            getattr(rest, part).body = content.body[size:]
            content.body, content.end_of_stream = content.body[:size], False
            found.insert(place + 1, rest)
        elif what == "fill":
            content.body = draw(BODIES)
        else:
            content.end_of_stream = not content.end_of_stream
    elif part is not None and part.endswith("headers"):
        getattr(message, part).headers.headers.add(key=draw(NAMES), raw_value=draw(VALUES).encode())


def headers_of(message):
    return {h.key: h.raw_value for h in message.headers.headers}


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(exchanges())
def test_any_sequence_of_messages(world_once, sequence):
    made = world_once
    before, conversation = len(made.decisions), Conversation(made.server.service)
    passed, part = [], None
    try:
        for message in sequence:
            part = message.WhichOneof("request")
            answer = conversation.take(pb.ProcessingRequest.FromString(message.SerializeToString()))
            if message.observability_mode:
                assert answer is None
                continue
            which = answer.WhichOneof("response")
            assert which in (part, "immediate_response")
            assert not answer.HasField("mode_override") or part.endswith("headers")
            if which == "immediate_response":
                assert answer.immediate_response.status.code in (400, 412, 503)
                assert conversation.over
            else:
                passed.append(message)
            if conversation.over:
                break
        ended = True
    except ProtocolError:
        ended = False
    conversation.end(cleanly=ended)
    assert made.server.service.memory.held == 0
    check_nothing_passed_unjudged(passed, made.decisions[before:])


def check_nothing_passed_unjudged(passed, decisions):
    """A judged path's whole 2xx answer reached the client: then a verdict accepted it."""
    parts = {m.WhichOneof("request"): m for m in passed}
    if "request_headers" not in parts or "response_body" not in parts or any(m.observability_mode for m in passed):
        return
    head, answer = (
        headers_of(parts["request_headers"].request_headers),
        headers_of(parts["response_headers"].response_headers),
    )
    request = b"".join(m.request_body.body for m in passed if m.WhichOneof("request") == "request_body")
    if head.get(":method") != b"POST" or head.get(":path") not in (PATH.encode(), CHAT.encode()):
        return
    if not (answer.get(":status", b"").isdigit() and 200 <= int(answer[":status"]) < 300):
        return
    if head[":path"] == CHAT.encode():
        try:
            if json.loads(request).get("model") != "gpt":
                return
        except (ValueError, AttributeError):
            pass
    content = b"".join(m.response_body.body for m in passed if m.WhichOneof("request") == "response_body")
    last = passed[-1]
    if content and not set(answer) & {"content-encoding", "inference-header-content-length", "content-type"} - {
        "content-type"
    }:
        whole_ = any(m.response_body.end_of_stream for m in passed if m.WhichOneof("request") == "response_body")
        if whole_ and answer.get("content-type") == b"application/json":
            assert good(head[":path"], content), content
    if content and last.WhichOneof("request") == "response_body" and last.response_body.end_of_stream:
        assert decisions, (head, answer, content)
        assert all(e.verdicts.accept.all() for e in decisions), (head, answer, content)


def good(path, content):
    """An oracle of the toy monitors: every row's largest logit is at least 2; the running mean of -log p never above 2."""
    document = json.loads(content)
    if path == PATH.encode():
        (output,) = (o for o in document["outputs"] if o["name"] == "scores")
        width = output["shape"][1]
        rows = [output["data"][i : i + width] for i in range(0, len(output["data"]), width)]
        return bool(rows) and all(max(row) >= 2 for row in rows)
    for each in document["choices"]:
        values = [-t["logprob"] for t in each["logprobs"]["content"]]
        if not values or any(sum(values[: i + 1]) / (i + 1) > 2 for i in range(len(values))):
            return False
    return bool(document["choices"])


@pytest.fixture(scope="module")
def world_once(request):
    from contextlib import ExitStack

    from tests.ext_proc.conftest import processor

    with ExitStack() as stack:
        yield processor(stack, "enforce", annotate=True, body_bytes=1 << 16)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.one_of(st.binary(max_size=60), messages().map(lambda m: m.SerializeToString())), max_size=6))
def test_any_bytes_over_a_real_stream_end_it_in_time(world_once, raws):
    """Each message is answered, or the stream ends; whatever cannot be read ends it with an error."""
    outbox: queue.Queue = queue.Queue()
    with grpc.insecure_channel(world_once.server.address) as channel:
        call = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")(
            iter(outbox.get, None), timeout=10
        )
        inbox: queue.Queue = queue.Queue()

        def read():
            try:
                for answer in call:
                    inbox.put(answer)
                inbox.put("end")
            except grpc.RpcError as error:
                inbox.put(error.code())

        threading.Thread(target=read, daemon=True).start()
        for raw in raws:
            outbox.put(raw)
        outbox.put(None)
        found = []
        while not found or isinstance(found[-1], bytes):
            found.append(inbox.get(timeout=15))
    assert len(found) - 1 <= len(raws)
    assert found[-1] in ("end", grpc.StatusCode.INVALID_ARGUMENT)
    readable = []
    for raw in raws:
        try:
            readable.append(pb.ProcessingRequest.FromString(raw).WhichOneof("request"))
        except Exception:
            readable.append(None)
    if readable and readable[0] != "request_headers":
        assert found == [grpc.StatusCode.INVALID_ARGUMENT]
