"""The order of messages: what no filter sends ends the stream with an error, never cleanly."""

from __future__ import annotations

import grpc
import pytest

from demur.proto.envoy import external_processor_pb2 as pb
from tests.ext_proc.conftest import CHAT, GOOD, PATH, choice, completion, infer, scores

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


def head(part, watching=False, end=False, **values):
    message = pb.ProcessingRequest(observability_mode=watching)
    for name, value in values.items():
        getattr(message, part).headers.headers.add(key=name.replace("_", "-"), raw_value=value.encode())
    getattr(message, part).end_of_stream = end
    return message


def body(part, content, end=True):
    message = pb.ProcessingRequest()
    getattr(message, part).body, getattr(message, part).end_of_stream = content, end
    return message


def trailers(part):
    message = pb.ProcessingRequest()
    getattr(message, part).SetInParent()
    return message


ASKED = head("request_headers", **{":method": "POST", ":path": PATH})
REQUEST = body("request_body", infer())
SAID = head("response_headers", **{":status": "200", "content-type": "application/json"})
ANSWER = body("response_body", scores(GOOD))


def talk(server, *messages):
    """The answers' kinds, and how the stream ended."""
    found = []
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(PROCESS)(iter(m.SerializeToString() for m in messages), timeout=10)
        try:
            found.extend(pb.ProcessingResponse.FromString(raw).WhichOneof("response") for raw in call)
        except grpc.RpcError as error:
            return found, f"{error.code().name}: {error.details()}"
    return found, ""


def test_a_whole_exchange(world):
    kinds = ["request_headers", "request_body", "response_headers", "response_body"]
    assert talk(world().server, ASKED, REQUEST, SAID, ANSWER) == (kinds, "")


@pytest.mark.parametrize(
    ("messages", "answers", "why"),
    [
        ([pb.ProcessingRequest()], 0, "got one without"),
        ([REQUEST], 0, "request_body came before request_headers; set processing_mode.request_header_mode: SEND"),
        ([SAID], 0, "response_headers came before request_headers"),
        ([trailers("response_trailers")], 0, "before response_headers"),
        ([ASKED, ANSWER], 1, "response_body came before response_headers; set processing_mode.response_header_mode: SEND"),
        ([ASKED, ASKED], 1, "request_headers came twice"),
        ([ASKED, REQUEST, REQUEST], 2, "request_body came after its end"),
        ([ASKED, REQUEST, SAID, SAID], 3, "response_headers came twice"),
        ([ASKED, REQUEST, SAID, ANSWER, ANSWER], 4, "response_body came after its end"),
        ([ASKED, trailers("request_trailers"), REQUEST], 2, "request_body came after its end"),
        ([ASKED, REQUEST, head("response_headers", watching=True)], 2, "observability_mode changed"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_messages_out_of_order(world, mode, messages, answers, why):
    made = world(mode)
    found, end = talk(made.server, *messages)
    assert (len(found), [r.kind for r in made.refusals]) == (answers, ["invalid"])
    if mode == "observe":
        assert end == "", "to Envoy a clean end means that the exchange goes on"
    else:
        assert end.startswith("INVALID_ARGUMENT: demur: ")
        assert why in end


def test_bytes_behind_a_judged_answer_do_not_pass(world):
    """An Envoy that says no modes sends a body without its end: it is judged by its length, and nothing may follow."""
    length = head("response_headers", **{":status": "200", "content-length": str(len(scores(GOOD)))})
    part = body("response_body", scores(GOOD), end=False)
    made = world("enforce")
    assert talk(made.server, ASKED, REQUEST, length, part, body("response_body", b""))[1] == ""
    found, end = talk(made.server, ASKED, REQUEST, length, part, body("response_body", b" more"))
    assert (found[-1], "goes on after" in end) == ("response_body", True)
    assert talk(world("observe").server, ASKED, REQUEST, length, part, body("response_body", b"more"))[1] == ""


def test_headers_that_the_filter_keeps_back(world):
    bare = head("request_headers", **{":authority": "x"})
    assert "forward_rules" in talk(world("enforce").server, bare, REQUEST)[1]
    assert talk(world("observe").server, bare, REQUEST) == (["request_headers"], "")


def test_a_message_that_is_none(world):
    with grpc.insecure_channel(world().server.address) as channel:
        call = channel.stream_stream(PROCESS)(iter([b"\xff\xff"]), timeout=10)
        with pytest.raises(grpc.RpcError) as error:
            list(call)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unmapped_path_frees_its_stream_after_one_answer(world):
    other = head("request_headers", **{":method": "POST", ":path": "/other"})
    assert talk(world().server, other, body("request_body", b"x")) == (["request_headers"], "")
    chat = head("request_headers", **{":method": "POST", ":path": CHAT})
    named = body("request_body", completion(choice(), model="other"))
    assert talk(world().server, chat, named, SAID) == (["request_headers", "request_body"], "")
