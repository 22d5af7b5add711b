"""The last layer of the served model, known again: bundles keep its fingerprint when the reference set brings it."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import demur
from demur.monitor.cli.main import app
from demur.monitor.errors import BundleError
from demur.monitor.fit.table import SignalsTable
from demur.monitor.fit.weights import check_head, registered
from tests.conftest import POLICY, draw

HEAD = {
    "head_weight": np.random.default_rng(5).normal(size=(4, 8)).astype(np.float32),
    "head_bias": np.arange(4, dtype=np.float32),
}


@pytest.fixture(scope="module")
def bundle():
    return demur.fit(POLICY, reference={**draw(300, 1), **HEAD}, calibration=draw(400, 2))


def table(**change):
    return SignalsTable.from_arrays(**{**draw(5, 3), **HEAD, **change})


def test_the_same_head_is_known_and_another_is_named(bundle):
    assert check_head(bundle, table()) == []
    assert check_head(demur.calibrate(bundle, calibration=draw(400, 4)), table()) == []
    quantised = np.round(HEAD["head_weight"] * 16) / 16
    changes = check_head(bundle, table(head_weight=quantised.astype(np.float32)))
    assert {c.array for c in changes} == {"head_weight"}


def test_what_cannot_be_compared_is_refused(bundle):
    with pytest.raises(BundleError, match="expected head_weight"):
        check_head(bundle, SignalsTable.from_arrays(**draw(5, 3)))
    without = demur.fit(POLICY, reference=draw(300, 1), calibration=draw(400, 2))
    with pytest.raises(BundleError, match="keeps no fingerprint"):
        check_head(without, table())


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[1]", b"3", b"\xff", b'{"w": 3}', b'{"w": {"shape": "x"}}', b"[" * 100_000]
)
def test_bytes_that_are_no_fingerprint_are_refused(raw):
    with pytest.raises(BundleError, match=r"fingerprint\.json is not a fingerprint"):
        registered(raw)


def test_the_command_says_what_changed(bundle, tmp_path):
    bundle.save(tmp_path / "b.demur")
    np.savez(tmp_path / "same.npz", **draw(5, 3), **HEAD)
    np.savez(tmp_path / "other.npz", **draw(5, 3), **{**HEAD, "head_bias": HEAD["head_bias"] + 1})
    words = ["bundle", "verify", str(tmp_path / "b.demur"), "--head"]
    good = CliRunner().invoke(app, [*words, str(tmp_path / "same.npz")])
    assert (good.exit_code, "last layer is the one" in good.output) == (0, True)
    bad = CliRunner().invoke(app, [*words, str(tmp_path / "other.npz")])
    assert (bad.exit_code, "head_bias" in bad.output) == (3, True)


def test_the_command_takes_a_head_without_rows_as_instrument_writes_it(bundle, tmp_path):
    bundle.save(tmp_path / "b.demur")
    np.savez(tmp_path / "net.head.npz", **HEAD)
    np.savez(tmp_path / "none.npz", **draw(5, 3))
    np.savez(tmp_path / "bad.npz", head_weight=np.full((4, 8), np.nan, np.float32))
    words = ["bundle", "verify", str(tmp_path / "b.demur"), "--head"]
    good = CliRunner().invoke(app, [*words, str(tmp_path / "net.head.npz")])
    assert (good.exit_code, "last layer is the one" in good.output) == (0, True)
    for name, said in (("none", "none.npz: expected head_weight"), ("bad", "bad.npz: head_weight: expected finite")):
        assert said in str(CliRunner().invoke(app, [*words, str(tmp_path / f"{name}.npz")]).exception)
