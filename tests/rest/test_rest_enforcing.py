"""`enforce` puts an error, replaced outputs or another model's answer in place of a blocked one, and says why."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from demur.monitor.engine import Conduct
from demur.monitor.errors import AuditUnavailable
from tests.rest.conftest import INFER, LENGTH, MODEL, Said, binary_request, inferred, request, said
from tests.service.bundles import BAD, GOOD, group_bundle

BLOCK, PASS = Conduct(mode="enforce", on_failure="block"), Conduct(mode="enforce", on_failure="pass")


class Recorded:
    gates = True

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.actions = error, []

    def record(self, _loaded, _observation, verdicts):
        if self.error:
            raise self.error
        self.actions.append([] if verdicts.actions is None else verdicts.actions.tolist())
        return 17, True


def test_accepted_answers_pass(stage):
    first, second = stage.both(stage.proxy(conduct=BLOCK), json=request([GOOD, GOOD], outputs=["label"]))
    assert second.content == first.content


@pytest.mark.parametrize("conduct", [BLOCK, PASS])
def test_an_abstention_withholds_the_answer_and_names_row_rule_and_record(stage, conduct):
    answer = stage.client.post(stage.proxy(conduct=conduct, recorder=Recorded()) + INFER, json=request())
    assert answer.status_code == 412
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"].startswith("demur: 1 of 2 rows blocked; row 1: NOVEL: weak p = ")
    assert answer.headers["demur-reasons"] == "NOVEL"
    assert (answer.headers["demur-verdict"], answer.headers["demur-action"]) == ("ABSTAIN", "BLOCK")
    assert answer.headers["demur-sequence"] == "17"
    assert answer.headers["demur-bundle"] == stage.verdicts.policy.bundle


def test_on_failure_decides_about_what_could_not_be_judged(stage):
    stage.upstream.says(
        said({"outputs": [{"name": "scores", "shape": [1, 4], "datatype": "FP32", "data": [None, 0, 0, 0]}]})
    )
    assert stage.client.post(stage.proxy(conduct=PASS) + INFER, json=request([GOOD])).status_code == 200
    answer = stage.client.post(stage.proxy(conduct=BLOCK) + INFER, json=request([GOOD]))
    assert answer.status_code == 412
    assert answer.headers["demur-reasons"] == "INVALID"


@pytest.mark.parametrize("body", [b"", b"not json", b'{"outputs":[]}', b'{"outputs":[],"outputs":[]}'])
def test_an_answer_that_cannot_be_read_is_withheld(stage, body):
    stage.upstream.says(Said(200, body))
    answer = stage.client.post(stage.proxy(conduct=BLOCK) + INFER, json=request())
    assert (answer.status_code, answer.headers["demur-reasons"]) == (412, "UNAVAILABLE")


def test_a_request_that_cannot_be_read_is_no_way_around_the_monitor(stage):
    stage.upstream.says(said({"outputs": [{"name": "scores", "shape": [1, 4], "datatype": "FP32", "data": GOOD}]}))
    answer = stage.client.post(stage.proxy(conduct=BLOCK) + INFER, content=b'{"inputs":1,"inputs":2}')
    assert answer.status_code == 412
    assert "the request cannot be read" in answer.headers["demur-cause"]


@pytest.mark.parametrize("target", [f"/v2/models/{MODEL}/generate_stream", f"/v1/models/{MODEL}:predict"])
def test_no_other_path_is_a_way_around_the_monitor(stage, target):
    assert stage.client.post(stage.proxy(conduct=BLOCK) + target, json=request([GOOD])).status_code == 412
    assert stage.client.post(stage.proxy(conduct=PASS) + target, json=request([GOOD])).status_code == 200


def test_unmapped_models_can_be_blocked(stage):
    proxy = stage.proxy(unmapped="block")
    answer = stage.client.post(proxy + "/v2/models/other/infer", json=request())
    assert answer.status_code == 412
    assert "no monitor is mapped to model 'other'" in answer.json()["error"]
    assert stage.client.get(proxy + "/v2/models/other").status_code == 400  # what the upstream says to it
    assert stage.client.post(proxy + INFER, json=request()).status_code == 200


def test_upstreams_own_refusal_comes_first(stage):
    stage.upstream.says(said({"error": "upstream says no"}, 400))
    answer = stage.client.post(stage.proxy(conduct=BLOCK) + INFER, content=b"{")
    assert (answer.status_code, answer.json()["error"]) == (400, "upstream says no")


@pytest.mark.parametrize("conduct", [BLOCK, PASS])
def test_an_audit_log_that_must_not_be_skipped_withholds_the_answer(stage, conduct):
    proxy = stage.proxy(conduct=conduct, recorder=Recorded(AuditUnavailable("disk full")))
    answer = stage.client.post(proxy + INFER, json=request([GOOD]))
    assert answer.status_code == 503
    assert "audit" in answer.json()["error"]
    assert [(e.kind, e.protocol) for e in stage.refusals] == [("audit", "oip-rest")]


def test_a_bug_in_the_judge_leaks_nothing(stage):
    proxy = stage.proxy(conduct=BLOCK, recorder=Recorded(RuntimeError("secret")))
    answer = stage.client.post(proxy + INFER, json=request([GOOD]))
    assert answer.status_code == 412
    assert "secret" not in answer.text + str(answer.headers)


def test_a_cause_cannot_break_the_headers(stage):
    entry = {"name": "scores", "shape": [1, 4], "datatype": "\r\nx: y\xfc\u4e2d" * 500, "data": GOOD}
    stage.upstream.says(said({"outputs": [entry]}))
    answer = stage.client.post(stage.proxy(conduct=BLOCK) + INFER, json=request([GOOD]))
    assert answer.status_code == 412
    assert len(answer.headers["demur-cause"]) <= 1024
    assert "x" not in answer.headers


REPLACE = {"on_abstain": "replace", "replace": {"label": -1, "scores": 0.5}}


@pytest.mark.parametrize("outputs", [None, ["label"], ["scores", "label"]])
def test_refused_rows_can_be_replaced(stage, outputs):
    recorder = Recorded()
    proxy = stage.proxy(conduct=BLOCK, model=REPLACE, recorder=recorder)
    first, second = stage.both(proxy, json=request(outputs=outputs, id="é"))
    found = {o["name"]: o for o in second.json()["outputs"]}
    assert [o["name"] for o in second.json()["outputs"]] == [o["name"] for o in first.json()["outputs"]]
    assert found["label"]["data"] == [0, -1]
    if "scores" in found:
        assert found["scores"]["data"] == [*GOOD, 0.5, 0.5, 0.5, 0.5]
    assert second.json()["id"] == "é"
    assert second.json()["parameters"]["demur.action"] == "REPLACE"
    assert recorder.actions == [[0, 6]]


def test_refused_rows_can_be_replaced_in_binary(stage):
    body, headers = binary_request(parameters={"binary_data_output": True})
    answer = stage.client.post(stage.proxy(conduct=BLOCK, model=REPLACE) + INFER, content=body, headers=headers)
    length = int(answer.headers[LENGTH])
    assert [o["name"] for o in json.loads(answer.content[:length])["outputs"]] == ["label", "scores"]
    assert np.frombuffer(answer.content[length : length + 16], "<i8").tolist() == [0, -1]
    assert np.frombuffer(answer.content[length + 16 :], "<f4").tolist() == [*GOOD, 0.5, 0.5, 0.5, 0.5]


def test_nested_data_stays_nested_when_it_is_replaced(stage):
    entry = {"name": "scores", "shape": [2, 4], "datatype": "FP32", "data": [GOOD, BAD], "more": 1.50}
    label = {"name": "label", "shape": [2, 1], "datatype": "INT64", "data": [[0], [0]]}
    stage.upstream.says(said({"outputs": [entry, label]}))
    answer = stage.client.post(stage.proxy(conduct=BLOCK, model=REPLACE) + INFER, json=request()).json()
    assert answer["outputs"][0]["data"] == [GOOD, [0.5] * 4]
    assert answer["outputs"][0]["more"] == 1.5
    assert answer["outputs"][1]["data"] == [[0], [-1]]


def test_what_cannot_be_replaced_is_withheld(stage):
    entry = {"name": "scores", "shape": [2, 4], "datatype": "FP32", "data": [*GOOD, *BAD]}
    label = {"name": "label", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]}  # of which row is refused?
    stage.upstream.says(said({"outputs": [label, entry]}))
    assert stage.client.post(stage.proxy(conduct=BLOCK, model=REPLACE) + INFER, json=request()).status_code == 412


FALLBACK = {"on_abstain": "fallback", "fallback": {"model": "safe one", "version": "2"}}


def test_another_model_can_answer_instead(stage):
    async def script(asked):
        if "safe" in asked.target:
            return said(
                {
                    "model_name": "safe one",
                    "outputs": [{"name": "label", "shape": [2], "datatype": "INT64", "data": [9, 9]}],
                }
            )
        return inferred(asked)

    stage.upstream.script = script
    proxy = stage.proxy(conduct=BLOCK, model=FALLBACK)
    answer = stage.client.post(proxy + INFER + "?q=1", json=request(outputs=["label"]))
    assert answer.json()["outputs"][0]["data"] == [9, 9]
    assert answer.json()["parameters"]["demur.action"] == "ROUTE"
    assert answer.json()["parameters"]["demur.answered_by"] == "safe one"
    asked = stage.upstream.seen[1]
    assert asked.target == "/v2/models/safe%20one/versions/2/infer?q=1"
    assert asked.json == request(outputs=["label"])
    assert len(stage.upstream.seen) == 2
    accepted = stage.client.post(proxy + INFER, json=request([GOOD], outputs=["label"]))
    assert "parameters" not in accepted.json()


@pytest.mark.parametrize("answer", [said({"error": "down"}, 503), Said(200, b"nonsense")])
def test_a_fallback_that_fails_leaves_the_block(stage, answer):
    async def script(asked):
        return answer if "safe" in asked.target else inferred(asked)

    stage.upstream.script = script
    assert stage.client.post(stage.proxy(conduct=BLOCK, model=FALLBACK) + INFER, json=request()).status_code == 412


def test_a_fallback_that_hangs_holds_up_no_other_model(stage, monkeypatch):
    monkeypatch.setattr("demur.adapters.servers.oip.rest.proxy.WORKERS", 2)
    asked_for, released = threading.Semaphore(0), threading.Event()

    async def script(asked):
        if "safe" in asked.target:
            asked_for.release()
            await asyncio.to_thread(released.wait, 20)
        return inferred(asked)

    stage.upstream.script = script
    judged = {"monitor": "toy", "signals": {"logits": "scores"}}
    proxy = stage.proxy(conduct=BLOCK, models={MODEL: {**judged, **FALLBACK}, "other": judged})
    with ThreadPoolExecutor(3) as pool:
        hung = [pool.submit(httpx.post, proxy + INFER, json=request([BAD]), timeout=20) for _ in range(3)]
        try:
            assert all(asked_for.acquire(timeout=10) for _ in hung)
            answer = stage.client.post(proxy + INFER.replace(MODEL, "other"), json=request([GOOD]), timeout=10)
            assert answer.status_code == 200
        finally:
            released.set()
        assert [h.result().status_code for h in hung] == [200] * 3


def test_verdicts_as_parameters_leave_all_else_as_it_was(stage):
    text = b'{"parameters" : {"a":1.50, "demur.verdict":"ACCEPT","demur.forged":1 },"outputs":[{"name":"scores","shape":[2,4],"datatype":"FP32","data":[5,0,0,0,1,0,0,0]}]}'
    stage.upstream.says(Said(200, text))
    answer = stage.client.post(stage.proxy(annotate=True) + INFER, json=request())
    said_parameters = answer.json()["parameters"]
    assert said_parameters["demur.verdict"] == "ABSTAIN"
    assert said_parameters["demur.forged"] == ""
    assert all(isinstance(v, str) for k, v in said_parameters.items() if k.startswith("demur."))
    assert json.loads(said_parameters["demur.accept"]) == [True, False]
    assert json.loads(said_parameters["demur.reasons"]) == [[], ["NOVEL"]]
    assert answer.content.startswith(b'{"parameters" : {"a":1.50, "demur.verdict":"ABSTAIN"')
    assert answer.content.endswith(text[text.index(b"},") :])


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {}}])
def test_parameters_are_made_when_there_are_none(stage, parameters):
    entry = {"name": "scores", "shape": [1, 4], "datatype": "FP32", "data": GOOD}
    stage.upstream.says(said({**parameters, "outputs": [entry]}))
    answer = stage.client.post(stage.proxy(annotate=True) + INFER, json=request([GOOD])).json()
    assert answer["parameters"]["demur.verdict"] == "ACCEPT"
    assert answer["outputs"] == [entry]


def test_unmapped_models_are_annotated_as_unjudged(stage):
    answer = stage.client.post(stage.proxy(annotate=True) + "/v2/models/other/infer", json=request()).json()
    assert answer["parameters"]["demur.verdict"] == "ABSTAIN"
    assert "no monitor" in answer["parameters"]["demur.cause"]


@pytest.mark.parametrize("binary", [True, False])
def test_verdicts_as_output_tensors(stage, binary):
    body, headers = binary_request(parameters={"binary_data_output": binary})
    proxy = stage.proxy(annotate="outputs", bundle=group_bundle())
    first, second = stage.both(proxy, content=body, headers=headers)
    length = int(second.headers.get(LENGTH, len(second.content)))
    before = json.loads(first.content[: int(first.headers.get(LENGTH, len(first.content)))])
    after = json.loads(second.content[:length])
    assert after["outputs"][:2] == before["outputs"]
    found = {o["name"]: o for o in after["outputs"][2:]}
    assert found["demur.accept"] == {"name": "demur.accept", "datatype": "BOOL", "shape": [2], "data": [True, False]}
    assert found["demur.reasons"]["data"] == [0, 1]
    assert found["demur.group_accept"]["shape"] == [2]
    assert after["parameters"]["demur.accept"] == ""
    if binary:
        assert second.content[length:] == first.content[int(first.headers[LENGTH]) :]


def test_unavailable_p_values_are_null_for_strict_readers(stage):
    stage.upstream.says(said({"outputs": []}))
    answer = stage.client.post(stage.proxy(annotate="outputs") + INFER, json=request([GOOD]))
    (p_values,) = [o for o in answer.json()["outputs"] if o["name"] == "demur.p_values"]
    assert p_values["data"] == [None]
    assert b"NaN" not in answer.content


def test_annotations_give_way_to_the_message_limit(stage):
    from demur.monitor.config.server import LimitsConfig

    rows = [GOOD] * 200
    largest = len(stage.client.post(stage.direct + INFER, json=request(rows)).content) + 1000
    proxy = stage.proxy(annotate=True, limits=LimitsConfig(message_bytes=largest))
    answer = stage.client.post(proxy + INFER, json=request(rows)).json()
    assert answer["parameters"]["demur.accept"] == ""
    assert "left out" in answer["parameters"]["demur.cause"]
