"""Infer calls of mapped models: the client hears what a direct call would say, and every answer has its verdict."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest

from tests.rest.conftest import INFER, LENGTH, MODEL, Said, binary_request, inferred, request, said, same
from tests.service.bundles import GOOD


def test_an_answer_with_the_needed_outputs_passes_byte_for_byte(stage):
    proxy = stage.proxy()
    same(*stage.both(proxy, json=request()))
    assert stage.upstream.seen[1].body == stage.upstream.seen[0].body
    assert stage.verdicts.accept.tolist() == [True, False]
    (event,) = stage.decisions
    assert event.protocol == "oip-rest"


def test_an_output_that_was_not_named_is_asked_for_and_taken_out_again(stage):
    proxy = stage.proxy()
    same(*stage.both(proxy, json=request(outputs=["label"])))
    assert [o["name"] for o in stage.upstream.seen[1].json["outputs"]] == ["label", "scores"]
    assert stage.verdicts.accept.tolist() == [True, False]


@pytest.mark.parametrize("outputs", [["label"], ["label", "scores"], ["scores"], None, []])
@pytest.mark.parametrize("binary", [True, False])
def test_the_binary_extension_on_both_sides(stage, outputs, binary):
    proxy = stage.proxy()
    named = outputs and [{"name": o, "parameters": {"binary_data": binary}} for o in outputs]
    body, headers = binary_request(outputs=named, parameters={"binary_data_output": True})
    first, second = stage.both(proxy, content=body, headers=headers)
    same(first, second)
    assert (LENGTH in second.headers) is (binary or not outputs)
    assert stage.verdicts.accept.tolist() == [True, False]


def test_outputs_in_both_forms_stay_aligned(stage):
    proxy = stage.proxy()
    named = [
        {"name": "scores", "parameters": {"binary_data": False}},
        {"name": "label", "parameters": {"binary_data": True}},
    ]
    body, headers = binary_request(outputs=named)
    same(*stage.both(proxy, content=body, headers=headers))
    assert stage.verdicts.accept.tolist() == [True, False]


def test_what_the_client_wrote_reaches_upstream_as_it_was_written(stage):
    body = (
        b'{ "x\\u0041":1.50e+02,"inputs":[{"name":"image","shape":[1,4],"datatype":"FP32","data":[5.000, 0, -0.0, 1E0]}],'
        b'\n"outputs" :[ {"name":"label" , "z":[1.10]} ] ,"id":"\xc3\xa9\\u00e9", "more":{"b":1,"a":2}}'
    )
    same(*stage.both(stage.proxy(), content=body))
    before, after = stage.upstream.seen
    assert after.body == before.body.replace(b'"z":[1.10]}', b'"z":[1.10]},{"name":"scores"}')


def test_what_upstream_wrote_reaches_the_client_as_it_was_written(stage):
    proxy = stage.proxy()
    text = (
        '{"model_name" : "digits",\n "outputs":[ {"name":"label","shape":[2],"datatype":"INT64","data":[ 0,0 ]}'
        ' , {"name":"scores","shape":[2,4],"datatype":"FP32","data":[[5,0,0,0],[1.0,NaN,0,0]]}], "é":1.10E1 }'
    )
    stage.upstream.says(Said(200, text.encode(), {"Content-Type": "application/json", "X-Other": "Kept"}))
    answer = stage.client.post(proxy + INFER, json=request(outputs=["label"]))
    start, end = text.index(" , {"), text.index('], "é')
    assert answer.content.decode() == text[:start] + text[end:]
    assert answer.headers["x-other"] == "Kept"
    assert stage.verdicts.accept.tolist() == [True, False]
    assert stage.verdicts.reasons[1][0].startswith("INVALID")


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity", "null", '"NaN"', '"-Infinity"', "1e39"])
def test_no_spelling_of_a_number_that_is_none_is_accepted(stage, written):
    proxy = stage.proxy()
    body = f'{{"outputs":[{{"name":"scores","shape":[2,4],"datatype":"FP32","data":[5,0,0,0,9,{written},0,0]}}]}}'
    stage.upstream.says(Said(200, body.encode()))
    assert stage.client.post(proxy + INFER, json=request()).content == body.encode()
    assert stage.verdicts.accept.tolist() == [True, False]
    assert "INVALID" in stage.verdicts.reasons[1][0]


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ({"data": [5, 0, 0]}, "expected 4 values, got 3"),
        ({"data": [5, 0, 0, "7"]}, "is no number"),
        ({"data": [5, 0, 0, True, None]}, "is no number"),
        ({"data": "5000"}, "expected a list"),
        ({"data": [[5], [0, 0, 0]]}, "its data is not of FP32"),
        ({}, "expected a list of data"),
        ({"data": [5, 0, 0, 0], "datatype": "INT64"}, "expected FP32"),
        ({"data": [5, 0, 0, 0], "shape": [4]}, "expected shape (N, 4)"),
        ({"data": [5, 0, 0, 0], "shape": [1, 4.5]}, "whole numbers"),
        ({"data": [5, 0, 0, 0], "shape": [-1, 4]}, "whole numbers"),
        ({"data": [5, 0, 0, 0], "shape": [1 << 60, 4]}, "tensor_bytes"),
        ({"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 16}}, "shared memory"),
        ({"parameters": {"binary_data_size": 16}}, "binary_data_size"),
        ({"name": "other", "data": [5, 0, 0, 0]}, "no output scores"),
    ],
)
def test_what_cannot_be_read_is_unavailable_and_passes(stage, output, cause):
    proxy = stage.proxy()
    entry = {"name": "scores", "shape": [1, 4], "datatype": "FP32"} | output
    stage.upstream.says(said({"outputs": [entry]}))
    same(*stage.both(proxy, json=request([GOOD])))
    assert stage.verdicts.accept.tolist() == [False]
    assert cause in stage.verdicts.cause


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"outputs":{}}',
        b'{"outputs":[1]}',
        b'{"outputs":[],"outputs":[]}',
        b'{"outputs":[{"name":"x","name":"scores","shape":[1,4],"datatype":"FP32","data":[5,0,0,0]}]}',
        b'{"outputs":[{"name":"scores","shape":[1,4],"datatype":"FP32","data":[0,0,0,0],"data":[5,0,0,0]}]}',
        b"[" * 100_000,
        b"\xff\xfe{\x00}\x00",
        b'{"outputs":' + b"[" * 50_000,
        b'{"a":' + b"9" * 5000 + b',"outputs":[]}',
    ],
)
def test_an_answer_that_is_no_answer_is_unavailable_and_passes(stage, body):
    proxy = stage.proxy()
    stage.upstream.says(Said(200, body))
    same(*stage.both(proxy, json=request([GOOD])))
    assert stage.verdicts.accept.tolist() == [False]
    assert stage.verdicts.cause


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"{", {}),
        (b'{"inputs":1,"inputs":2}', {}),
        (b'{"outputs":7}', {}),
        (b"[" * 100_000, {}),
        (json.dumps(request()).encode(), {LENGTH: "many"}),
        (json.dumps(request()).encode(), {LENGTH: "999999"}),
        (json.dumps(request()).encode(), {LENGTH: "-1"}),
        (b"no gzip", {"Content-Encoding": "gzip"}),
        (json.dumps(request()).encode(), {"Content-Encoding": "br"}),
    ],
)
def test_a_request_that_cannot_be_read_gets_upstreams_own_word(stage, body, headers):
    proxy = stage.proxy()
    stage.upstream.says(said({"error": "upstream's own word"}, 400))
    same(*stage.both(proxy, content=body, headers=headers))
    assert stage.upstream.seen[1].body == body
    stage.upstream.says(said({"outputs": []}))
    assert stage.client.post(proxy + INFER, content=body, headers=headers).status_code == 200
    assert "the request cannot be read" in stage.verdicts.cause


def test_a_raw_request_is_forwarded_as_it_is_and_judged(stage):
    proxy = stage.proxy()
    stage.upstream.says(said({"outputs": [{"name": "scores", "shape": [1, 4], "datatype": "FP32", "data": GOOD}]}))
    raw = np.asarray(GOOD, "<f4").tobytes()
    same(*stage.both(proxy, content=raw, headers={LENGTH: "0"}))
    assert stage.upstream.seen[1].body == raw
    assert stage.verdicts.accept.tolist() == [True]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("outputs", [None, ["label"]])
def test_content_codings_on_both_sides(stage, coding, outputs):
    pack = gzip.compress if coding == "gzip" else zlib.compress
    unpack = gzip.decompress if coding == "gzip" else zlib.decompress

    async def script(asked):
        if asked.header("content-encoding"):
            asked.body = unpack(asked.body)
        answer = inferred(asked)
        assert coding in (asked.header("accept-encoding") or "")
        answer.body, answer.headers["content-encoding"] = pack(answer.body), coding
        return answer

    stage.upstream.script = script
    headers = {"Content-Encoding": coding, "Accept-Encoding": coding}
    body = pack(json.dumps(request(outputs=outputs)).encode())
    first, second = stage.both(stage.proxy(), content=body, headers=headers)
    assert second.headers["content-encoding"] == coding
    assert second.json() == first.json()
    assert stage.verdicts.accept.tolist() == [True, False]


def test_upstream_is_not_asked_for_a_coding_that_could_not_be_read(stage):
    stage.client.post(stage.proxy() + INFER, json=request(), headers={"Accept-Encoding": "br, gzip;q=0.5, zstd"})
    assert stage.upstream.seen[0].header("accept-encoding") == "gzip"


@pytest.mark.parametrize(("status", "sequence", "calls"), [(500, 7, 1), (500, 0, 2), (400, 7, 2)])
def test_a_sequence_is_not_advanced_twice_for_an_output_that_was_rejected(stage, status, sequence, calls):
    async def script(asked):
        if len(asked.json["outputs"]) > 1:
            return said({"error": "no output 'scores' here"}, status)
        return inferred(asked)

    stage.upstream.script = script
    proxy, body = stage.proxy(), request([GOOD], outputs=["label"], parameters={"sequence_id": sequence})
    answer = stage.client.post(proxy + INFER, json=body)
    assert (len(stage.upstream.seen), answer.status_code) == (calls, status if calls == 1 else 200)
    assert stage.client.post(proxy + INFER, json=body).status_code == 200  # remembered: asked as the client wrote it
    assert len(stage.upstream.seen) == calls + 1
    assert not any(e.verdicts.accept.any() for e in stage.decisions)


@pytest.mark.parametrize("word", ["scores", "\\u0073cores"])
def test_an_error_that_repeats_the_clients_own_word_blinds_nobody(stage, word):
    async def script(asked):
        if asked.json["inputs"][0]["name"] != "image":
            return said({"error": "no input 'scores' here"}, 500)
        return inferred(asked)

    stage.upstream.script = script
    proxy, body = stage.proxy(), request([GOOD], outputs=["label"], parameters={"sequence_id": 7})
    hostile = json.dumps(body).replace('"image"', f'"{word}"')
    assert stage.client.post(proxy + INFER, content=hostile.encode()).status_code == 500
    assert stage.client.post(proxy + INFER, json=request([GOOD], outputs=["label"])).status_code == 200
    assert stage.verdicts.accept.all()


def test_a_rejected_extra_output_costs_one_retry_and_is_remembered(stage):
    async def script(asked):
        names = [o["name"] for o in asked.json.get("outputs", [])]
        if "scores" in names:
            return said({"error": "unexpected inference output 'scores' for model 'digits'"}, 400)
        return inferred(asked)

    stage.upstream.script = script
    proxy = stage.proxy()
    for _ in range(2):
        answer = stage.client.post(proxy + INFER, json=request(outputs=["label"]))
        assert [o["name"] for o in answer.json()["outputs"]] == ["label"]
    assert len(stage.upstream.seen) == 3
    assert all(e.verdicts.cause.startswith("upstream rejected output scores") for e in stage.decisions)
    assert [e.verdicts.accept.tolist() for e in stage.decisions] == [[False, False]] * 2


def test_an_error_about_another_thing_is_not_retried(stage):
    stage.upstream.says(said({"error": "no such input 'image'"}, 400))
    answer = stage.client.post(stage.proxy() + INFER, json=request(outputs=["label"]))
    assert (answer.status_code, len(stage.upstream.seen), stage.decisions) == (400, 1, [])


def test_default_outputs_are_named_for_a_client_that_names_none(stage):
    async def script(asked):
        document = asked.json
        document["outputs"] = document.get("outputs") or [{"name": "label"}]
        asked.body = json.dumps(document).encode()
        return inferred(asked)

    stage.upstream.script = script
    proxy = stage.proxy(model={"default_outputs": ["label"]})
    for outputs in (None, []):
        same(*stage.both(proxy, json=request(outputs=outputs)))
    same(*stage.both(proxy, content=json.dumps({**request(), "outputs": None}).encode()))
    assert [e.verdicts.accept.tolist() for e in stage.decisions] == [[True, False]] * 3


def test_a_server_that_sends_everything_whatever_is_asked_is_left_alone(stage):
    entries = [{"name": n, "shape": [1, 4], "datatype": "FP32", "data": GOOD} for n in ("label", "scores", "more")]
    stage.upstream.says(said({"outputs": entries}))
    same(*stage.both(stage.proxy(), json=request([GOOD], outputs=["label"])))
    assert stage.verdicts.accept.tolist() == [True]


@pytest.mark.parametrize(
    "target",
    [
        f"/v2/models/{MODEL}/versions/3/infer",
        f"/v2/models/{MODEL}/infer?a=%20b&c",
        f"/v2/models/{MODEL}/infer/",
        f"//v2/models//{MODEL}/infer",
        "/v2/models/%64igits/infer",
        f"/v2/models/{MODEL}%2Finfer",
        f"/v2/./models/x/../{MODEL}/infer",
        f"/v2/models/{MODEL}/infer#",
        f"/v2/models/{MODEL}/infer#x?y",
        f"/v2/models/{MODEL}/infer/#/../ready",
    ],
)
@pytest.mark.parametrize("method", ["POST", "post", "PoSt"])  # httpx sends them all as POST
def test_no_spelling_of_path_and_method_leads_past_the_monitor(stage, method, target):
    connection = __import__("http.client", fromlist=["HTTPConnection"]).HTTPConnection(
        stage.proxy().removeprefix("http://")
    )
    connection.request(method, target, json.dumps(request()), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()
    assert (stage.upstream.seen[0].method, stage.upstream.seen[0].target) == ("POST", target)
    assert stage.verdicts.accept.tolist() == [True, False]


def test_unmapped_models_pass_and_are_counted(stage):
    proxy = stage.proxy()
    same(*stage.both(proxy, "/v2/models/other/infer", json=request()))
    assert [(e.kind, e.protocol) for e in stage.refusals] == [("unmapped", "oip-rest")]


@pytest.mark.parametrize(
    "target",
    [
        f"/v2/models/{MODEL}/generate",
        f"/v2/models/{MODEL}/infer_stream",
        f"/v1/models/{MODEL}:predict",
        f"/v1/models/{MODEL}/versions/1:predict",
        f"/v1/models/{MODEL}/labels/stable:classify",
    ],
)
def test_other_ways_to_a_mapped_models_outputs_are_unavailable(stage, target):
    same(*stage.both(stage.proxy(), target, json=request()))
    assert stage.verdicts.accept.tolist() == [False]
    assert "use infer" in stage.verdicts.cause


def test_a_version_in_the_path_is_part_of_the_contract(stage):
    from tests.service.bundles import row_bundle

    proxy = stage.proxy(bundle=row_bundle(model={"version": "2"}))
    stage.client.post(proxy + f"/v2/models/{MODEL}/versions/3/infer", json=request([GOOD]))
    assert "is not the '2'" in stage.verdicts.cause
