"""The fault matrix behind Envoy: mode x on_failure x fault x format. A fault sets a reason; the operator's choice sets the
action; nothing sets ACCEPT.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.monitor.errors import AuditUnavailable
from demur.monitor.loaded import Loaded
from tests.ext_proc.conftest import CHAT, GOOD, PATH, ask, choice, completion, infer, scores
from tests.ext_proc.simulator import BUFFERED, NONE, PARTIAL, STREAMED, Answer
from tests.service.bundles import row_bundle, stream_bundle

JSON = {"content-type": "application/json"}
FAULTS = (
    "missing_signal", "nan", "crash", "budget", "judge", "encoding", "too_large", "truncated", "unbuffered", "not_sent",
    "audit_block", "audit_count",
)  # fmt: skip
CELLS = list(itertools.product(("observe", "enforce"), ("block", "pass"), FAULTS, ("infer", "chat"), (False, True)))


class Log:
    """An audit log whose disk is gone, under one of the operator's choices."""

    gates = True

    def __init__(self, *, block: bool) -> None:
        self.block = block

    def record(self, loaded, observation, verdicts):
        if self.block:
            raise AuditUnavailable("audit log: no space left on device; free the disk")
        return 0, False


def answer(kind: str, fault: str) -> Answer:
    good = scores(GOOD) if kind == "infer" else completion(choice(-0.1, -0.2))
    if fault == "missing_signal":
        good = scores(GOOD, name="other") if kind == "infer" else completion(choice())
    if fault == "nan":
        good = scores([np.nan, 0, 0, 0]) if kind == "infer" else completion(choice(float("nan")))
    headers = JSON | ({"content-encoding": "br"} if fault == "encoding" else {})
    return Answer(headers=headers, body=good + (b" " * (1 << 16) if fault == "too_large" else b""))


@pytest.mark.parametrize(("mode", "choice_", "fault", "kind", "allow"), CELLS, ids=str)
def test_every_cell(world, mode, choice_, fault, kind, allow):
    recorder = Log(block=fault == "audit_block") if fault.startswith("audit") else None
    budget = 1e-9 if fault == "budget" else None
    made = world(mode, choice_, recorder=recorder, budget=budget, body_bytes=1 << 14, annotate=True)
    engine = made.engine if kind == "infer" else made.tokens
    if fault == "crash":
        engine.activate(Loaded.open(row_bundle(2) if kind == "infer" else stream_bundle(2)))

        def broken(feed):
            raise RuntimeError("the graph crashed")

        engine.loaded.session.run_columns = broken
    if fault == "judge":

        def fails(*_, **__):
            raise RuntimeError("the judge crashed")

        engine.assess = engine.finish = fails
    modes = {"unbuffered": STREAMED, "not_sent": NONE, "truncated": PARTIAL}
    envoy = made.envoy(
        answer(kind, fault), response_body=modes.get(fault, BUFFERED), partial_bytes=40, failure_mode_allow=allow
    )
    result = envoy.request(*((PATH, infer()) if kind == "infer" else (CHAT, ask(logprobs=True))))
    said = answer(kind, fault).body
    assert (result.spurious, result.failed) == (0, "")

    if fault == "audit_count":
        assert (result.status, result.headers["demur-verdict"], result.headers["demur-audited"]) == (
            200,
            "ACCEPT",
            "false",
        )
        return
    streamed_in_observe = fault == "unbuffered" and (mode, choice_) != ("enforce", "block")
    blocked = mode == "enforce" and (choice_ == "block" or fault == "audit_block")
    assert result.status == (503 if blocked else 200)
    assert blocked or result.body == said
    if streamed_in_observe:
        assert made.decisions[0].verdicts.accept.tolist() == [True], "judged at the end, too late for a header"
        return
    assert result.headers["demur-verdict"] == "ABSTAIN"
    expected = "INVALID" if fault == "nan" else "UNAVAILABLE"
    assert expected in result.headers["demur-reasons"].split(",")
    if fault not in ("audit_block", "judge"):
        (event,) = made.decisions
        assert not event.verdicts.accept.any()
        assert (event.verdicts.reason_bits & Reason[expected]).all()
    else:
        assert [r.kind for r in made.refusals] == ["audit" if fault == "audit_block" else "internal"]
    if blocked:
        error = json.loads(result.body)["error"]
        assert ("demur" in error) if kind == "infer" else error["code"] == "demur_abstain"


def test_a_failure_of_ours_is_never_a_clean_end(world, monkeypatch):
    """A conversation that breaks answers as the operator chose, whatever part it breaks in."""
    from demur.adapters.servers.ext_proc.infer import InferExchange

    for name in ("ask", "begin", "progress", "judge"):
        for mode, choice_, status in (("enforce", "block", 503), ("enforce", "pass", 200), ("observe", "block", 200)):
            made = world(mode, choice_)

            def fails(*_, **__):
                raise RuntimeError("a defect")

            with monkeypatch.context() as patch:
                patch.setattr(InferExchange, name, fails)
                result = made.envoy(scores(GOOD), failure_mode_allow=True).request(PATH, infer())
            assert (result.status, result.failed, result.spurious) == (status, "", 0), (name, mode, choice_)
            assert [r.kind for r in made.refusals] == ["internal"]
