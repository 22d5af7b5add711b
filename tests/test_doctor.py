"""`demur doctor --config` finds what `demur serve` would refuse, and what its proxies could not judge."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from demur.monitor.audit import AuditLog, Record
from demur.monitor.audit.keys import generate, write_key
from demur.monitor.bundle import activation, signature, succession
from demur.monitor.bundle.succession import LastServed
from demur.monitor.cli.main import app
from demur.monitor.event import BundleEvent
from demur.monitor.recorder import AuditTrail
from tests.adapters.conftest import Stage
from tests.adapters.test_oip_described import message
from tests.service.bundles import row_bundle

OUTPUTS = {"label": "INT64", "scores": "FP32"}


@pytest.fixture
def home(tmp_path):
    row_bundle(5).save(tmp_path / "toy.demur")
    return tmp_path


def found(home: Path, *, monitor: dict[str, Any] | None = None, **config: Any) -> tuple[int, list[dict[str, str]]]:
    """Exit code, and what the doctor says of this configuration."""
    monitors = [{"name": "toy", "bundle": str(home / "toy.demur"), **(monitor or {})}]
    path = home / "demur.yaml"
    path.write_text(yaml.safe_dump({"listen": ["127.0.0.1:0"], "monitors": monitors, **config}))
    told = CliRunner().invoke(app, ["doctor", "--config", str(path), "--json"])
    return told.exit_code, json.loads(told.output)


def bad(home: Path, **config: Any) -> list[str]:
    code, checks = found(home, **config)
    said = [c["what"] for c in checks if c["level"] == "bad"]
    assert code == (3 if said else 0)
    return said


def audit(home: Path) -> dict[str, Any]:
    return {"audit": {"directory": str(home / "log"), "origin": "toy"}}


@pytest.fixture
def log(home):
    """A closed log with a key of its own, which says that version 5 was activated last."""
    (home / "log").mkdir()
    signer = generate("toy")
    write_key(home / "log" / "audit.key", signer)
    with AuditLog.open(home / "log", origin="toy", signer=signer) as log:
        AuditTrail(log).on_bundle(BundleEvent("toy", "00" * 32, 5, accepted=True, built_for="toy"))
        log.append(Record(kind="verdict", monitor="toy", rows=1)).wait(10)
    return home / "log"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_sound_log_is_good_and_not_touched(home, log):
    before = contents(home)
    assert bad(home, **audit(home)) == []
    assert {k: v for k, v in contents(home).items() if k != "demur.yaml"} == before
    assert any(c["what"].endswith("log: 4 records") for c in found(home, **audit(home))[1])


def test_a_log_that_will_be_begun_is_good_and_not_begun(home):
    assert bad(home, **audit(home)) == []
    assert not (home / "log").exists()
    (home / "log").write_bytes(b"")
    assert len(bad(home, **audit(home))) == 1


def damaged_key(log):
    (log / "audit.key").write_bytes(b"PRIVATE+KEY+toy+0+AAAA")


def open_key(log):
    (log / "audit.key").chmod(0o644)


def no_key(log):
    (log / "audit.key").unlink()


def another_key(log):
    (log / "audit.key").unlink()
    (log / "audit.key.pub").unlink()
    write_key(log / "audit.key", generate("toy"))


def damaged_journal(log):
    path = next((log / "journal").iterdir())
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)


def cut_journal(log):
    path = next((log / "journal").iterdir())
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    "harm", [damaged_key, open_key, no_key, another_key, damaged_journal, cut_journal], ids=lambda f: f.__name__
)
def test_what_keeps_serve_from_opening_the_log_is_bad(home, log, harm):
    harm(log)
    before = contents(log)
    assert len(bad(home, **audit(home))) == 1
    assert contents(log) == before
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(home / "demur.yaml")]
    served = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert served.returncode == 1, served.stderr
    assert "refused" in served.stderr
    assert set(contents(log)) == set(before)  # no other key was made


def test_a_version_that_a_restart_would_refuse_is_bad(home, log):
    older = row_bundle(4)
    older.save(home / "toy.demur")
    assert "version 4 is lower than version 5" in bad(home, **audit(home))[0]
    assert bad(home) == []  # without the log nobody knows
    succession.remember(home / "toy.demur", LastServed("toy", 6, "toy"))
    assert "version 4 is lower than version 6" in bad(home)[0]
    activation.allow(home / "toy.demur", older)
    assert bad(home, **audit(home)) == []


def test_listed_keys_make_a_signature_required_as_for_serve(home):
    key = home / "release.pub"
    key.write_bytes(signature.public_pem(Ed25519PrivateKey.generate().public_key()))
    assert "signature is required" in bad(home, monitor={"public_keys": [str(key)]})[0]


def test_an_address_in_use_is_a_note(home):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, checks = found(home, listen=[address])
        assert code == 0
        assert [c["level"] for c in checks if c["what"] == f"listen: {address} is in use now"] == ["note"]
    assert not any("in use" in c["what"] for c in found(home, listen=[address])[1])


def test_a_socket_in_use_is_a_note_and_one_left_behind_is_none(home):
    path = home / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        code, checks = found(home, metrics_listen="127.0.0.1:0", health_listen=f"unix:{path}")
        assert code == 0
        assert [c["level"] for c in checks if c["what"] == f"health_listen: unix:{path} is in use now"] == ["note"]
    assert path.exists()
    assert not any("in use" in c["what"] for c in found(home, health_listen=f"unix:{path}")[1])


@pytest.mark.parametrize(
    "address", ["unix:{}/none/s", "unix:{}/toy.demur", "unix:{}/" + "x" * 108, "192.0.2.1:9443", "nowhere.invalid:1"]
)
def test_an_address_that_cannot_be_listened_on_is_bad(home, address):
    assert len(bad(home, listen=[address.format(home)])) == 1


def test_one_address_for_two_is_bad(home):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert bad(home, listen=[address], metrics_listen=address) == [f"metrics_listen: {address} is that of listen too"]


@pytest.fixture
def upstream():
    """A server of gRPC that says it has OUTPUTS."""
    stage = Stage()
    stage.upstream.says(message(OUTPUTS))
    yield stage.target
    stage.close()


def proxy(upstream: str, **model: Any) -> dict[str, Any]:
    mapped = {"monitor": "toy", "signals": {"logits": "scores"}, **model}
    return {"proxy": {"listen": "127.0.0.1:0", "upstream": upstream, "models": {"digits": mapped}}}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"signals": {"logits": "pooled"}}, "model digits: the monitor needs the output pooled, upstream has label, scores"),
        ({"on_abstain": "replace", "replace": {"lable": -1}}, "`replace` names the output lable, upstream has label, scores"),
        ({"on_abstain": "replace", "replace": {"label": "x"}}, "`replace`: output label: 'x' is no int64"),
    ],
)  # fmt: skip
def test_outputs_that_upstream_does_not_have_are_bad(home, upstream, model, says):
    said = bad(home, **proxy(upstream, **model))
    assert len(said) == 1
    assert says in said[0]


def test_outputs_that_it_has_are_good(home, upstream):
    code, checks = found(home, **proxy(upstream, on_abstain="replace", replace={"label": -1}))
    assert code == 0
    assert any(c["what"].endswith("model digits: has every output that is named") for c in checks)


def test_an_upstream_with_a_scheme_is_refused(home):
    assert "expected host:port or unix:/path, without http://" in bad(home, **proxy("http://127.0.0.1:1"))[0]
