from __future__ import annotations

import datetime as dt
import ipaddress
import logging
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from demur.monitor.client.client import Client
from demur.monitor.errors import ConfigurationError
from demur.monitor.service.auth import TokenFile
from tests.service.bundles import GOOD
from tests.service.conftest import accepted, refused, rows

TOKEN = "correct-horse-battery-staple"
NOW = dt.datetime.now(dt.UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A certificate authority for one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = (
            self._builder(name, key.public_key()).add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        )
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(*pem))
        return paths

    def _builder(self, name: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        day = dt.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(self.name)).public_key(key)
        return builder.serial_number(x509.random_serial_number()).not_valid_before(NOW - day).not_valid_after(NOW + day)


def test_tls(start, tmp_path):
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.issue("server")
    server = start(tls={"certificate": str(certificate), "key": str(key)})
    address = server.addresses[0]
    with Client(address, tls_ca=authority.path, timeout_seconds=5) as client:
        assert client.assess(logits=[GOOD]).accept.tolist() == [True]
    with Client(address, tls_ca=Authority(tmp_path, "stranger").path) as client:
        assert client.assess(logits=[GOOD]).accept.tolist() == [False]
        assert client.failures == {"unreachable": 1}
    with Client(address) as plain:
        assert not plain.assess(logits=[GOOD]).accept.any()


def test_a_renewed_certificate_needs_no_restart(start, tmp_path):
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    certificate, key = old.issue("server")
    address = start(tls={"certificate": str(certificate), "key": str(key)}).addresses[0]
    with Client(address, tls_ca=old.path, timeout_seconds=5) as client:
        assert client.assess(logits=[GOOD]).accept.all()
    new.issue("server")
    with Client(address, tls_ca=new.path, timeout_seconds=5) as client:
        assert client.assess(logits=[GOOD]).accept.all()


def test_mutual_tls(start, tmp_path):
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.issue("server")
    server = start(tls={"certificate": str(certificate), "key": str(key), "client_ca": str(authority.path)})
    mine = authority.issue("client")
    with Client(
        server.addresses[0], tls_ca=authority.path, client_cert=mine[0], client_key=mine[1], timeout_seconds=5
    ) as client:
        assert client.assess(logits=[GOOD]).accept.all()
    foreign = Authority(tmp_path, "other").issue("intruder")
    for identity in ({}, {"client_cert": foreign[0], "client_key": foreign[1]}):
        with Client(server.addresses[0], tls_ca=authority.path, **identity) as client:
            assert not client.assess(logits=[GOOD]).accept.any()


def test_the_key_must_belong_to_the_certificate(start, tmp_path):
    authority = Authority(tmp_path, "ca")
    certificate, _ = authority.issue("server")
    _, other = authority.issue("other")
    with pytest.raises(ConfigurationError, match="not the key of"):
        start(tls={"certificate": str(certificate), "key": str(other)})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        start(tls={"certificate": str(tmp_path / "none"), "key": str(other)})


@pytest.fixture
def guarded(start, tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return start(token_file=str(path))


def test_token(guarded, connect, heard, caplog):
    caplog.set_level(logging.DEBUG)
    stub = connect(guarded.addresses[0])
    for metadata in (
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", TOKEN)],
        [("authorization", f"Bearer {TOKEN}")] * 2,
    ):
        error = refused(lambda m=metadata: stub.Assess(rows([GOOD]), timeout=5, metadata=m))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert TOKEN not in error.details()
    assert refused(lambda: next(stub.AssessStream(iter(()), timeout=5))).code() is grpc.StatusCode.UNAUTHENTICATED
    assert accepted(stub.Assess(rows([GOOD]), timeout=5, metadata=[("authorization", f"Bearer {TOKEN}")])) == [True]
    assert heard.kinds == ["unauthenticated"] * 5
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(vars(guarded))


def test_token_guards_reflection_but_not_health(guarded):
    with grpc.insecure_channel(guarded.addresses[0]) as channel:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        error = refused(lambda: next(stub.ServerReflectionInfo(asked, timeout=5)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        known = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answer = next(stub.ServerReflectionInfo(known, timeout=5, metadata=[("authorization", f"Bearer {TOKEN}")]))
        assert "demur.v1.MonitorService" in [s.name for s in answer.list_services_response.service]
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_client_with_and_without_the_token(guarded):
    with Client(guarded.addresses[0], token=TOKEN, timeout_seconds=5) as client:
        assert client.assess(logits=[GOOD]).accept.all()
        assert client.failures == {}
    with Client(guarded.addresses[0], timeout_seconds=5) as client:
        verdicts = client.assess(logits=[GOOD])
        assert "bearer token" in verdicts.cause
        assert client.failures == {"unauthenticated": 1}


def test_a_rotated_token_is_taken_and_an_empty_one_is_not(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    token = TokenFile(path)
    path.write_text("x" * 20)
    token.refresh()
    assert token.accepts("Bearer " + "x" * 20)
    assert not token.accepts(f"Bearer {TOKEN}")
    for bad in ("", "short", "with a blank in the middle"):
        path.write_text(bad)
        token.refresh()
        assert token.accepts("Bearer " + "x" * 20)
        assert not token.accepts("Bearer ")
        assert not token.accepts("")
    with pytest.raises(ConfigurationError, match="openssl"):
        TokenFile(path)
