"""Listening, TLS, configuration that cannot work, and stopping."""

from __future__ import annotations

import datetime as dt
import ipaddress
import stat
import threading
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from demur.adapters.servers.oip import OipProxy, renewal
from demur.monitor.config.server import ProxyConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import ConfigurationError
from demur.monitor.loaded import Loaded
from tests.adapters.conftest import INFER, SERVICE, answer, request
from tests.service.bundles import row_bundle, stream_bundle


def certificate() -> tuple[bytes, bytes]:
    """A key and a self-signed certificate for 127.0.0.1, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, cert.public_bytes(serialization.Encoding.PEM)


def config(**changes) -> ProxyConfig:
    models = {"digits": {"monitor": "toy", "signals": {"logits": "scores"}}}
    return ProxyConfig.model_validate({"listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "models": models} | changes)


def engine(bundle=None) -> Engine:
    return Engine(Loaded.open(bundle or row_bundle()))


def test_port_zero_is_resolved(stage):
    proxy = stage.proxy()
    host, _, port = proxy.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_unix_sockets_on_both_sides(stage, tmp_path: Path):
    said = stage.upstream.says(answer())
    inner = stage.proxy(listen=f"unix:{tmp_path}/inner.sock")
    outer = stage.proxy(listen=f"unix:{tmp_path}/outer.sock", upstream=inner.address)
    assert outer.address == f"unix:{tmp_path}/outer.sock"
    assert stage.infer(outer, request()) == said
    assert len(stage.decisions) == 2


def test_a_socket_is_its_owners_alone_and_a_live_one_is_left_alone(stage, tmp_path: Path):
    path = tmp_path / "proxy.sock"
    stage.proxy(listen=f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = OipProxy(config(listen=f"unix:{path}"), {"toy": engine()})
    with pytest.raises(ConfigurationError, match="another server answers there"):
        second.start()
    second.stop()


def test_tls_on_both_sides(stage, tmp_path: Path):
    said = stage.upstream.says(answer())
    key, cert = certificate()
    (tmp_path / "ca.pem").write_bytes(cert)
    secure = stage.proxy(server_credentials=grpc.ssl_server_credentials([(key, cert)]))
    channel = stage.channel(secure.address, grpc.ssl_channel_credentials(cert))
    assert channel.unary_unary(INFER)(request(), timeout=10) == said
    plain = stage.refused(secure, request(), timeout=3)
    assert plain.code() is grpc.StatusCode.UNAVAILABLE
    front = OipProxy(config(upstream=secure.address, upstream_tls_ca=str(tmp_path / "ca.pem")), {"toy": engine()})
    front.start()
    assert stage.infer(front, request()) == said
    front.stop()


def test_a_new_authority_of_upstream_is_trusted_without_a_restart(stage, tmp_path: Path, monkeypatch):
    """Calls under way keep their connection; a file that cannot be used keeps the last good one."""
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.0)
    said, trusted = stage.upstream.says(answer()), tmp_path / "ca.pem"
    key, cert = certificate()
    trusted.write_bytes(certificate()[1])
    secure = stage.proxy(server_credentials=grpc.ssl_server_credentials([(key, cert)]))
    front = stage.proxy(upstream=secure.address, document={"upstream_tls_ca": str(trusted)})
    error = stage.refused(front, request())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "(demur: upstream" in error.details()
    trusted.write_bytes(cert)
    assert stage.infer(front, request()) == said
    trusted.write_bytes(b"no certificate")
    assert stage.infer(front, request()) == said
    reached, release = threading.Event(), threading.Event()

    def script(*_):
        reached.set()
        return release.wait(10) and answer().SerializeToString()

    stage.upstream.script = script
    under_way = stage.channel(front.address).unary_unary(INFER).future(request(), timeout=20)
    assert reached.wait(5)
    trusted.write_bytes(certificate()[1])
    assert stage.refused(front, request()).code() is grpc.StatusCode.UNAVAILABLE
    release.set()
    assert under_way.result() == said


def test_an_authority_that_is_none_is_refused_before_listening(tmp_path: Path):
    (tmp_path / "ca.pem").write_bytes(b"no certificate")
    with pytest.raises(ConfigurationError, match=r"proxy\.upstream_tls_ca: expected certificates in PEM form"):
        OipProxy(config(upstream_tls_ca=str(tmp_path / "ca.pem")), {"toy": engine()})


def test_a_port_that_is_taken_is_refused_with_the_address(stage):
    held = stage.proxy()
    second = OipProxy(config(listen=held.address), {"toy": engine()})
    with pytest.raises(ConfigurationError, match=held.address):
        second.start()
    second.stop()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"m": {"monitor": "nobody", "signals": {"logits": "x"}}}, "no monitor 'nobody'"),
        ({"m": {"monitor": "toy", "signals": {"logits": "x", "logit": "y"}}}, "no such signal: logit"),
        ({"m": {"monitor": "tokens", "signals": {"token_logprob": "x"}}}, "judges streams"),
    ],
)
def test_mappings_that_cannot_work_are_refused_before_listening(models, message):
    engines = {"toy": engine(), "tokens": engine(stream_bundle())}
    with pytest.raises(ConfigurationError, match=message):
        OipProxy(config(models=models), engines)


def test_a_ca_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="upstream_tls_ca"):
        OipProxy(config(upstream_tls_ca=str(tmp_path / "absent.pem")), {"toy": engine()})


def test_stopping_lets_calls_under_way_finish(stage):
    reached, release = threading.Event(), threading.Event()

    def script(*_):
        reached.set()
        release.wait(10)
        return answer().SerializeToString()

    stage.upstream.script = script
    proxy = stage.proxy()
    call = stage.channel(proxy.address).unary_unary(INFER).future(request(), timeout=20)
    assert reached.wait(5)
    stopping = threading.Thread(target=proxy.stop, args=(10.0,))
    stopping.start()
    release.set()
    assert call.result() == answer().SerializeToString()
    stopping.join(10)
    assert not stopping.is_alive()
    assert stage.refused(proxy, b"", f"{SERVICE}ServerLive", timeout=2).code() is grpc.StatusCode.UNAVAILABLE


def test_a_new_bundle_is_used_from_the_next_request_on(stage):
    judged = engine(row_bundle(limit=2.0))
    proxy = OipProxy(config(upstream=stage.target), {"toy": judged})
    proxy.start()
    stage.upstream.says(answer([[3.0, 0, 0, 0]]))
    seen = []
    judged._listeners = (lambda e: seen.append(bool(e.verdicts.accept[0])),)
    stage.infer(proxy, request(rows=1))
    judged.activate(Loaded.open(row_bundle(2, limit=4.0)))
    stage.infer(proxy, request(rows=1))
    proxy.stop()
    assert seen == [True, False]
