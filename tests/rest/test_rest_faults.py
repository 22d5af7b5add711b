"""The fault matrix over HTTP: mode x on_failure x fault. A fault sets a reason; the operator's choice sets the action;
nothing sets ACCEPT.
"""

from __future__ import annotations

import itertools
import json

import pytest

from demur.adapters.servers.oip.rest.answer import InferAnswer
from demur.detectors.reason import Reason
from demur.monitor.engine import Conduct
from demur.monitor.errors import AuditUnavailable
from tests.rest.conftest import INFER, MODEL, Said, inferred, request, said
from tests.service.bundles import GOOD, row_bundle

FAULTS = (
    "missing_signal", "nan", "crash", "budget", "version", "audit_block", "audit_count", "request", "answer", "encoding",
    "rejected", "shared_memory", "path",
)  # fmt: skip
CELLS = list(itertools.product(("observe", "enforce"), ("block", "pass"), FAULTS))


class Log:
    """An audit log whose disk is gone, under one of the operator's choices."""

    gates = True

    def __init__(self, *, block: bool) -> None:
        self.block = block

    def record(self, _loaded, _observation, _verdicts):
        if self.block:
            raise AuditUnavailable("audit log: no space left on device; free the disk")
        return 0, False


def scores(**fields) -> dict:
    return {"name": "scores", "shape": [1, 4], "datatype": "FP32", "data": GOOD} | fields


ANSWERS = {
    "missing_signal": said({"outputs": [scores(name="other")]}),
    "nan": said({"outputs": [scores(data=[None, 0, 0, 0])]}),
    "answer": Said(200, b'{"outputs":[],"outputs":[]}'),
    "encoding": Said(200, b"packed", {"Content-Encoding": "br"}),
    "shared_memory": said({"outputs": [scores(data=None, parameters={"shared_memory_region": "r"})]}),
}


def script(fault):
    async def answer(asked):
        if fault in ANSWERS:
            return ANSWERS[fault]
        if fault in ("request", "path"):
            return said({"outputs": [scores()]})
        if fault == "rejected" and len(asked.json["outputs"]) > 1:
            return said({"error": "unexpected inference output 'scores'"}, 400)
        return inferred(asked)

    return answer


@pytest.mark.parametrize(("mode", "choice", "fault"), CELLS, ids=str)
def test_every_cell(stage, mode, choice, fault):
    stage.upstream.script = script(fault)
    recorder = Log(block=fault == "audit_block") if fault.startswith("audit") else None
    budget = 1e-9 if fault == "budget" else None
    proxy = stage.proxy(
        conduct=Conduct(mode, choice, budget), recorder=recorder, bundle=row_bundle(model={"version": "7"})
    )
    if fault == "crash":

        def broken(_feed):
            raise RuntimeError("the graph crashed")

        stage.engine.loaded.session.run_columns = broken
    version = "8" if fault == "version" else "7"
    target = f"/v2/models/{MODEL}/versions/{version}/{'generate' if fault == 'path' else 'infer'}"
    asked = json.dumps(request([GOOD], outputs=["label"] if fault == "rejected" else None)).encode()
    body = b'{"inputs":1,"inputs":2}' if fault == "request" else asked
    direct, answer = stage.both(proxy, target, content=body)
    kind = Reason.INVALID if fault == "nan" else Reason.UNAVAILABLE
    if fault == "audit_count" or not (mode == "enforce" and (choice == "block" or fault == "audit_block")):
        assert answer.status_code == 200
        assert answer.content == direct.content
    else:
        assert answer.status_code == (503 if fault == "audit_block" else 412)
        assert answer.headers["demur-verdict"] == "ABSTAIN"
        assert kind.name in answer.headers["demur-reasons"].split(",")
        assert answer.json()["error"].startswith("demur: ")
    if fault == "audit_block":
        assert [e.kind for e in stage.refusals] == ["audit"]
        return
    verdicts = stage.verdicts
    if fault == "audit_count":
        assert verdicts.accept.all()
        assert not verdicts.audited
        return
    assert not verdicts.accept.any()
    assert (verdicts.reason_bits & kind != 0).all()


@pytest.mark.parametrize(
    ("mode", "choice", "status"), [("observe", "block", 200), ("enforce", "pass", 200), ("enforce", "block", 412)]
)
@pytest.mark.parametrize("place", ["without", "annotated", "tensor"])
def test_a_failure_of_ours_is_an_abstention(stage, monkeypatch, mode, choice, status, place):
    def fails(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(InferAnswer, place, fails)
    proxy = stage.proxy(conduct=Conduct(mode, choice), annotate="parameters")
    answer = stage.client.post(proxy + INFER, json=request([GOOD], outputs=["label"]))
    assert answer.status_code == status
    assert [e.kind for e in stage.refusals] == ["internal"]
    if status == 412:
        assert answer.headers["demur-reasons"] == "UNAVAILABLE"
