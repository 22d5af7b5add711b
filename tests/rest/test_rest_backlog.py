"""Over REST too an observed answer goes out before it is judged, and its verdict is not lost."""

from __future__ import annotations

import threading
from time import perf_counter

import pytest

from demur.monitor.engine import Conduct
from tests.rest.conftest import INFER, request
from tests.service.bundles import GOOD

WAIT = 10


class Recorder:
    """Records nothing until it is opened."""

    def __init__(self, *, gates: bool = False) -> None:
        self.gates, self.open = gates, threading.Event()
        self.recorded: list[str] = []

    def record(self, _loaded, observation, _verdicts):
        assert self.open.wait(WAIT)
        self.recorded.append(observation.request)
        return len(self.recorded), True


def test_the_answer_does_not_wait_for_its_verdict_and_stopping_judges_what_has_gone_out(stage):
    recorder = Recorder()
    proxy = stage.proxy(recorder=recorder)
    for i in range(10):
        assert stage.client.post(proxy + INFER, json=request([GOOD], id=str(i))).status_code == 200
    assert not recorder.recorded
    threading.Timer(0.5, recorder.open.set).start()
    stage._proxies[0].stop()
    assert sorted(recorder.recorded) == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("gates", "awaited"),
    [(False, {"conduct": Conduct("enforce")}), (False, {"conduct": Conduct(budget_seconds=WAIT)}), (False, {"annotate": True}), (True, {})],
)  # fmt: skip
def test_an_answer_waits_when_anybody_waits_for_the_verdict(stage, gates, awaited):
    recorder = Recorder(gates=gates)
    proxy = stage.proxy(recorder=recorder, **awaited)
    threading.Timer(0.3, recorder.open.set).start()
    began = perf_counter()
    assert stage.client.post(proxy + INFER, json=request([GOOD])).status_code == 200
    assert perf_counter() - began > 0.25
    assert recorder.recorded == ["r-1"]
