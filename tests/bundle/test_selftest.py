"""Self-tests: a machine that computes something else must not serve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.monitor.bundle import Bundle, selftest
from demur.monitor.bundle.bundle import npy
from demur.monitor.errors import BundleError, SelfTestFailed
from demur.monitor.loaded import Loaded
from demur.monitor.session import Session

GOLDEN = Path(__file__).parent.parent / "golden" / "sliced.demur"


@pytest.fixture
def good():
    return Bundle.load(GOLDEN)


def rebuilt(good, **members):
    fields = {
        k: getattr(good.manifest, k) for k in type(good.manifest).model_fields if k not in ("members", "schema_version")
    }
    return Bundle.build({**good.members, **members}, **fields)


def test_a_self_test_that_disagrees_is_refused(good):
    scores = good.arrays(selftest.OUTPUTS)["scores"].copy()
    scores[0, 0] += 1e-3
    with pytest.raises(SelfTestFailed, match=r"scores\[0, 0\]"):
        Loaded.open(rebuilt(good, **{"selftest/outputs/scores.npy": npy(scores)}))


def test_a_bundle_without_vectors_is_refused(good):
    bare = {n: b for n, b in good.members.items() if not n.startswith("selftest/")}
    fields = {
        k: getattr(good.manifest, k) for k in type(good.manifest).model_fields if k not in ("members", "schema_version")
    }
    with pytest.raises(SelfTestFailed, match="no self-test"):
        Loaded.open(Bundle.build(bare, **fields))


def test_a_runtime_that_launders_nan_is_refused(good):
    session = Session(good.graph)

    class Laundering:
        def run(self, feed):
            return session.run({n: np.nan_to_num(a) for n, a in feed.items()})

    with pytest.raises(SelfTestFailed, match="NaN or infinity"):
        selftest.run(good, Laundering())


def test_a_verdict_that_disagrees_is_refused(good):
    accept = ~good.arrays(selftest.OUTPUTS)["accept"]
    with pytest.raises(SelfTestFailed, match="accept"):
        Loaded.open(rebuilt(good, **{"selftest/outputs/accept.npy": npy(accept)}))


def test_a_count_may_move_by_little_and_only_near_a_threshold_change_a_verdict():
    """Another machine's last bit moves a score past one calibration score; many are another computation."""
    bundle = Bundle.load(GOLDEN.with_name("coded.demur"))
    column = [c.score for c in bundle.manifest.columns].index("stopped")
    limit = bundle.manifest.rules[2].thresholds[0]
    at = int(np.argmin(np.abs(np.nan_to_num(bundle.arrays(selftest.OUTPUTS)["scores"][:, column], nan=1e9) - limit)))

    def moved(by, flipped=None):
        def change(outputs):
            outputs["scores"][:, column] += by
            if flipped is not None:
                outputs["accept"][flipped] ^= True
                outputs["reasons"][flipped] = 0 if outputs["accept"][flipped] else int(Reason.NOVEL)

        return Changed(bundle, change)

    assert selftest.run(bundle, moved(2)) < 8
    with pytest.raises(SelfTestFailed, match=rf"scores\[0, {column}\]"):
        selftest.run(bundle, moved(3))
    far = next(
        i for i in range(30) if i != at and Session(bundle.graph).run(bundle.arrays(selftest.INPUTS))["accept"][i]
    )
    with pytest.raises(SelfTestFailed, match="accept"):
        selftest.run(bundle, moved(0, far))


class Changed:
    """A session whose outputs are changed before anybody sees them."""

    def __init__(self, bundle, change):
        self._session, self._change = Session(bundle.graph), change

    def run(self, feed):
        outputs = {n: a.copy() for n, a in self._session.run(feed).items()}
        self._change(outputs)
        return outputs


CHANGES = {
    "an output is missing": (lambda o: o.pop("accept"), "expected the outputs"),
    "another shape": (lambda o: o.update(reasons=o["reasons"][:1]), "expected shape"),
    "accepted against a reason": (lambda o: o.update(accept=~o["accept"]), "against a reason"),
    "one broken row scored as ordinary": (lambda o: o["scores"].__setitem__((-1, 0), 0.5), "NaN or infinity"),
    "a broken row refused by a rule alone": (
        lambda o: o["reasons"].__setitem__(slice(-2, None), int(Reason.NOVEL)),
        "NaN or infinity",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_a_runtime_may_not_answer(good, case):
    change, says = CHANGES[case]
    with pytest.raises(SelfTestFailed, match=says):
        selftest.run(good, Changed(good, change))


def test_a_row_on_its_threshold_may_be_judged_either_way(good):
    """A score a hair from the threshold: another machine's last bit decides it, and the row is counted as marginal."""
    inputs = good.arrays(selftest.INPUTS)
    found = Session(good.graph).run(inputs)
    column = next(i for i, c in enumerate(good.manifest.columns) if c.name == good.manifest.rules[0].column)
    document = json.loads(good.raw_manifest)
    document["rules"][0]["thresholds"] = [float(found["scores"][0, column])] * len(document["rules"][0]["thresholds"])
    fields = {k: v for k, v in document.items() if k not in ("members", "schema_version", "rules_digest")}
    moved = Bundle.build(good.members, **fields)

    def turn(outputs):
        hit = outputs["rule_hits"][0] == 0
        outputs["rule_hits"][0], outputs["reasons"][0], outputs["accept"][0] = int(hit), int(hit), not hit

    assert selftest.run(moved, Changed(good, turn)) >= 1
    with pytest.raises(SelfTestFailed, match=r"\[0\]"):
        selftest.run(good, Changed(good, turn))


CONTRACTS = {
    "another width": (lambda m: m["signals"][0].update(width=5), "of width 4, the manifest declares 5"),
    "no such signal": (lambda m: m.update(signals=[]), "declares none"),
    "no such column": (lambda m: m["rules"][0].update(column="nothing"), "expected a row column named nothing"),
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_a_manifest_that_is_not_about_its_graph_is_refused(good, case):
    change, says = CONTRACTS[case]
    document = json.loads(good.raw_manifest)
    change(document)
    fields = {k: v for k, v in document.items() if k not in ("members", "schema_version", "rules_digest")}
    with pytest.raises(BundleError, match=says):
        Loaded.open(Bundle.build(good.members, **fields))
