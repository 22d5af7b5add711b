"""Calls of `infer` over HTTP: outputs asked for beside the client's, binary tensors, compressed bodies, other answers."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest

from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.errors import ConfigurationError
from tests.ext_proc.conftest import BAD, GOOD, PATH, filtering, infer, scores
from tests.ext_proc.simulator import STREAMED, Answer
from tests.ext_proc.upstream import binary_request

JSON = {"content-type": "application/json"}
LENGTH = "inference-header-content-length"


def label_only(*rows):
    document = json.loads(scores(*rows))
    document["outputs"] = document["outputs"][:1]
    return json.dumps(document).encode()


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_an_output_the_client_did_not_name_is_asked_for_and_taken_out_again(world, mode):
    made = world(mode)
    result = made.envoy(filtering(GOOD)).request(PATH, infer(outputs=["label"]))
    assert (result.status, result.body) == (200, label_only(GOOD)), "as a direct call would have answered"
    head, body = result.upstream_saw
    assert [o["name"] for o in json.loads(body)["outputs"]] == ["label", "scores"]
    assert head["content-length"] == str(len(body))
    assert result.headers["content-length"] == str(len(result.body))
    assert made.decisions[0].verdicts.accept.tolist() == [True]


def test_a_body_without_a_length_gets_none(world):
    def chunked(head, body):
        found = filtering(GOOD)(head, body)
        found.length = False
        return found

    result = world().envoy(chunked).request(PATH, infer(outputs=["label"]), chunks=[infer(outputs=["label"])])
    assert (result.status, "content-length" in result.headers) == (200, False)
    assert "content-length" not in result.upstream_saw[0]


def test_digests_of_a_changed_body_are_taken_out(world):
    def upstream(head, body):
        found = filtering(GOOD)(head, body)
        found.headers |= {"etag": '"1"', "content-digest": "sha-256=:x:", "x-own": "1"}
        return found

    result = world().envoy(upstream).request(PATH, infer(outputs=["label"]), {"digest": "x"})
    assert set(result.headers) == {"content-type", "content-length", "x-own"}
    assert "digest" not in result.upstream_saw[0]


def test_what_is_named_already_is_left_alone(world):
    body = infer(outputs=["scores", "label"])
    assert world().envoy(filtering(GOOD)).request(PATH, body).upstream_saw[1] == body


def test_nothing_is_asked_for_where_it_could_not_be_taken_out(world):
    made = world("observe")
    result = made.envoy(filtering(GOOD), response_body=STREAMED).request(PATH, infer(outputs=["label"]))
    assert result.upstream_saw[1] == infer(outputs=["label"])
    assert "cannot be changed here" in made.decisions[0].verdicts.cause


def test_a_raw_request_cannot_name_outputs(world):
    made = world("observe", digits={"default_outputs": ["label"]})
    made.envoy(label_only(GOOD)).request(PATH, np.zeros(3, "<f4").tobytes(), {LENGTH: "0"})
    assert "raw request" in made.decisions[0].verdicts.cause


def binary_answer(*rows):
    def upstream(head, body):
        length = int(head[LENGTH])
        named = [o["name"] for o in json.loads(body[:length])["outputs"]]
        values = {"label": (np.zeros(len(rows), "<i8"), "INT64"), "scores": (np.asarray(rows, "<f4"), "FP32")}
        outputs, parts = [], []
        for name in named:
            array, datatype = values[name]
            parts.append(array.tobytes())
            size = {"binary_data_size": len(parts[-1])}
            outputs.append({"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": size})
        text = json.dumps({"model_name": "digits", "outputs": outputs}).encode()
        return Answer(headers={LENGTH: str(len(text))}, body=text + b"".join(parts))

    return upstream


@pytest.mark.parametrize("outputs", [["label"], ["label", "scores"]])
def test_the_binary_extension(world, outputs):
    body, length = binary_request(outputs)
    made = world()
    head = {LENGTH: length}
    result = made.envoy(binary_answer(GOOD)).request(PATH, body, head)
    direct = binary_answer(GOOD)({LENGTH: length}, body)
    assert (result.status, result.body, result.headers[LENGTH]) == (200, direct.body, direct.headers[LENGTH])
    assert made.envoy(binary_answer(BAD)).request(PATH, body, head).status == 412


def test_a_binary_answer_whose_sizes_do_not_add_up(world):
    def upstream(head, body):
        found = binary_answer(GOOD)(head, body)
        found.body = found.body[:-3]
        return found

    body, length = binary_request(["scores"])
    made = world()
    assert made.envoy(upstream).request(PATH, body, {LENGTH: length}).status == 503
    assert "binary_data_size" in made.decisions[0].verdicts.cause


def bare(content):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    "packed", [bare, lambda c: gzip.compress(c[:9]) + gzip.compress(c[9:])], ids=["bare", "members"]
)
def test_what_some_senders_call_deflate_and_gzip_of_several_members(world, packed):
    coding = "deflate" if packed is bare else "gzip"
    made = world()
    good = Answer(headers=JSON | {"content-encoding": coding}, body=packed(scores(GOOD)))
    assert made.envoy(good).request(PATH, infer()).body == packed(scores(GOOD))
    bad = Answer(headers=JSON | {"content-encoding": coding}, body=packed(scores(BAD)))
    assert made.envoy(bad).request(PATH, infer()).status == 412
    behind = Answer(headers=JSON | {"content-encoding": "deflate"}, body=zlib.compress(scores(GOOD)) + b"more")
    assert made.envoy(behind).request(PATH, infer()).status == 503


CODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("coding", CODERS)
def test_compressed_bodies_of_both_sides(world, coding):
    coder, decoder = CODERS[coding], {"gzip": gzip.decompress, "x-gzip": gzip.decompress, "deflate": zlib.decompress}

    def upstream(_, body):
        found = filtering(GOOD)(_, body)
        return Answer(headers=JSON | {"content-encoding": coding}, body=coder(found.body))

    made = world()
    request = infer(outputs=["label"])
    result = made.envoy(upstream).request(PATH, coder(request), {"content-encoding": coding})
    assert result.status == 200
    assert [o["name"] for o in json.loads(result.upstream_saw[1])["outputs"]] == ["label", "scores"]
    assert result.headers["content-encoding"] == coding
    assert decoder.get(coding, bytes)(result.body) == label_only(GOOD)


def test_upstream_is_asked_for_codings_that_can_be_read(world):
    made = world()
    result = made.envoy(scores(GOOD)).request(PATH, infer(), {"accept-encoding": "br, gzip;q=0.5, zstd"})
    assert result.upstream_saw[0]["accept-encoding"] == "gzip"
    assert (
        made.envoy(scores(GOOD)).request("/other", b"x", {"accept-encoding": "br"}).upstream_saw[0]["accept-encoding"]
        == "br"
    )


@pytest.mark.parametrize(
    ("headers", "body", "cause"),
    [
        ({"content-encoding": "br"}, b"x", "expected gzip or deflate, got 'br'"),
        ({"content-encoding": "gzip, gzip"}, gzip.compress(gzip.compress(scores(GOOD))), "expected gzip or deflate"),
        ({"content-encoding": "gzip"}, gzip.compress(scores(GOOD))[:-9], "body truncated"),
        ({"content-encoding": "gzip"}, b"no gzip at all", "the body is not gzip"),
        ({"content-encoding": "gzip"}, gzip.compress(scores(GOOD)) + b"more", "the body is not gzip"),
        ({"content-encoding": "gzip"}, gzip.compress(bytes(1 << 22)), "larger than body_bytes"),
        ({}, scores(GOOD) + b" " * (1 << 17), "larger than body_bytes"),
        ({}, b"{", "cannot be read"),
        ({}, b'{"outputs": []}', "has no output scores"),
        ({}, scores(GOOD, GOOD, name="scores").replace(b"[2, 4]", b"[9999999999, 4]"), "tensor_bytes"),
        ({LENGTH: "999999"}, scores(GOOD), "exceeds the"),
        ({}, scores([np.nan, 0, 0, 0]), ""),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_answers_that_cannot_be_judged_are_never_accepted(world, headers, body, cause):
    for mode, choice, status in (("enforce", "block", 503), ("enforce", "pass", 200), ("observe", "block", 200)):
        made = world(mode, choice, body_bytes=1 << 16)
        result = made.envoy(Answer(headers=JSON | headers, body=body)).request(PATH, infer())
        assert (result.status, result.spurious) == (status, 0)
        assert status == 503 or result.body == body
        assert not made.decisions[0].verdicts.accept.any()
        assert cause in made.decisions[0].verdicts.cause
        assert made.server.service.memory.held == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"outputs": 3}', b'{"outputs": [{}]}', bytes(1 << 17), b"\xff"])
def test_requests_that_cannot_be_read_but_were_answered(world, body):
    made = world(body_bytes=1 << 16)
    assert made.envoy(scores(GOOD)).request(PATH, body).status == 503
    assert made.decisions[0].verdicts.cause.startswith("the request cannot be read")


def test_outputs_replaced_instead_of_an_error(world):
    made = world(digits={"on_abstain": "replace", "replace": {"label": -1}})
    result = made.envoy(scores(GOOD, BAD)).request(PATH, infer(rows=2))
    assert result.status == 200
    found = {o["name"]: o for o in json.loads(result.body)["outputs"]}
    assert found["label"]["data"] == [0, -1]
    assert result.headers["content-length"] == str(len(result.body))
    assert made.decisions[0].verdicts.actions.tolist() == [0, 6]


def test_an_output_that_upstream_rejects_is_not_asked_for_again(world):
    def upstream(_, body):
        named = [o["name"] for o in json.loads(body)["outputs"]]
        if "scores" in named:
            return Answer(400, JSON, b'{"error": "unexpected inference output \'scores\' for model"}')
        return Answer(headers=JSON, body=label_only(GOOD))

    made = world("observe")
    envoy = made.envoy(upstream)
    assert envoy.request(PATH, infer(outputs=["label"])).status == 400, "the filter cannot ask again"
    assert envoy.request(PATH, infer(outputs=["label"])).status == 200
    assert "upstream rejected output scores" in made.decisions[0].verdicts.cause


@pytest.mark.parametrize("word", ["scores", "\\u0073cores"])
def test_an_error_that_repeats_the_clients_own_word_blinds_nobody(world, word):
    def upstream(_, body):
        if json.loads(body)["inputs"][0]["name"] == "scores":
            return Answer(400, JSON, b'{"error": "no input \'scores\' for model"}')
        return Answer(headers=JSON, body=scores(GOOD))

    made = world()
    envoy = made.envoy(upstream)
    hostile = infer(outputs=["label"]).decode().replace('"image"', f'"{word}"').encode()
    assert envoy.request(PATH, hostile).status == 400
    assert envoy.request(PATH, infer(outputs=["label"])).status == 200
    assert made.decisions[0].verdicts.accept.all()


def test_configurations_that_cannot_work():
    digits = {"monitor": "toy", "on_abstain": "fallback", "fallback": {"model": "other"}}
    for document, said in (({}, "expected models"), ({"infer": {"digits": digits}}, "needs a proxy")):
        with pytest.raises(ValueError, match=said):
            ExtProcConfig.model_validate({"listen": "127.0.0.1:0", **document})


def test_monitors_that_do_not_fit(world):
    for more, said in (
        ({"infer": {"digits": {"monitor": "tokens"}}}, "judges streams"),
        ({"infer": {"digits": {"monitor": "nobody"}}}, "no monitor"),
        ({"completions": {"gpt": {"monitor": "toy"}}}, "judges rows"),
        ({"completions": {"gpt": {"monitor": "nobody"}}}, "no monitor"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            world(**more)
