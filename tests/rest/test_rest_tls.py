"""TLS to clients and to upstream."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import httpx
import pytest

from demur.adapters.servers.oip import renewal
from demur.monitor.config.server import TlsConfig
from demur.monitor.errors import ConfigurationError
from tests.adapters.test_oip_proxy import certificate
from tests.rest.conftest import INFER, request


@pytest.fixture
def files(tmp_path: Path) -> TlsConfig:
    key, cert = certificate()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "cert.pem").write_bytes(cert)
    return TlsConfig(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")


def test_tls_on_both_sides(stage, files):
    inner = stage.proxy(tls=files).replace("127.0.0.1", "localhost")
    outer = stage.proxy(rest={"upstream": inner, "upstream_tls_ca": files.certificate})
    assert stage.client.post(outer + INFER, json=request()).status_code == 200
    trusting = ssl.create_default_context(cafile=str(files.certificate))
    assert httpx.post(inner + INFER, json=request(), verify=trusting).status_code == 200
    assert len(stage.decisions) == 3


def test_an_upstream_that_cannot_be_trusted_is_a_502(stage, files):
    inner = stage.proxy(tls=files).replace("127.0.0.1", "localhost")
    answer = stage.client.post(stage.proxy(rest={"upstream": inner}) + INFER, json=request())
    assert answer.status_code == 502
    assert stage.upstream.seen == []


def test_a_client_certificate_can_be_required(stage, files):
    proxy = stage.proxy(tls=files.model_copy(update={"client_ca": files.certificate})).replace("127.0.0.1", "localhost")
    trusting = ssl.create_default_context(cafile=str(files.certificate))
    with pytest.raises(httpx.TransportError):
        httpx.post(proxy + INFER, json=request(), verify=trusting)
    trusting.load_cert_chain(str(files.certificate), str(files.key))
    assert httpx.post(proxy + INFER, json=request(), verify=trusting).status_code == 200


def test_a_renewed_certificate_is_used_without_a_restart(stage, files):
    proxy = stage.proxy(tls=files).replace("127.0.0.1", "localhost")
    key, cert = certificate()
    files.key.write_bytes(b"half of a file")  # the last good one is kept
    old = ssl.create_default_context(cafile=str(files.certificate))
    assert httpx.get(proxy + "/v2", verify=old, timeout=20).status_code == 400
    files.certificate.write_bytes(cert)
    files.key.write_bytes(key)
    new = ssl.create_default_context(cafile=str(files.certificate))
    assert httpx.get(proxy + "/v2", verify=new, timeout=20).status_code == 400
    with pytest.raises(httpx.ConnectError):
        httpx.get(proxy + "/v2", verify=old, timeout=20)


def test_clients_are_checked_against_the_authority_of_the_moment(stage, files, tmp_path):
    """Also when they connect by address, name no server, and would resume a session of before."""
    (first_key, first), (second_key, second) = certificate(), certificate()
    (tmp_path / "clients.pem").write_bytes(first)
    proxy = stage.proxy(tls=files.model_copy(update={"client_ca": tmp_path / "clients.pem"}))

    def client(key: bytes, cert: bytes) -> ssl.SSLContext:
        (tmp_path / "own.pem").write_bytes(key + cert)
        trusting = ssl.create_default_context(cafile=str(files.certificate))
        trusting.load_cert_chain(tmp_path / "own.pem")
        return trusting

    one, other = client(first_key, first), client(second_key, second)
    assert httpx.post(proxy + INFER, json=request(), verify=one).status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.post(proxy + INFER, json=request(), verify=other)
    (tmp_path / "clients.pem").write_bytes(second)
    assert httpx.post(proxy + INFER, json=request(), verify=other).status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.post(proxy + INFER, json=request(), verify=one)


def test_no_session_outlives_the_trust_in_its_client(stage, files, tmp_path):
    key, cert = certificate()
    (tmp_path / "clients.pem").write_bytes(cert)
    (tmp_path / "own.pem").write_bytes(key + cert)
    proxy = stage.proxy(tls=files.model_copy(update={"client_ca": tmp_path / "clients.pem"}))
    host, port = proxy.removeprefix("https://").split(":")
    trusting = ssl.create_default_context(cafile=str(files.certificate))
    trusting.load_cert_chain(tmp_path / "own.pem")
    trusting.minimum_version = ssl.TLSVersion.TLSv1_3
    session = None
    for _ in range(2):
        with (
            socket.create_connection((host, int(port))) as plain,
            trusting.wrap_socket(plain, server_hostname=host, session=session) as speaking,
        ):
            speaking.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert speaking.recv(100).startswith(b"HTTP/1.1 400")
            assert not speaking.session_reused
            session = speaking.session


def test_a_new_authority_of_upstream_is_trusted_without_a_restart(stage, files, tmp_path, monkeypatch):
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.0)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(certificate()[1])
    inner = stage.proxy(tls=files).replace("127.0.0.1", "localhost")
    outer = stage.proxy(rest={"upstream": inner, "upstream_tls_ca": trusted})

    def status() -> int:
        return stage.client.post(outer + INFER, json=request()).status_code

    assert status() == 502
    trusted.write_bytes(files.certificate.read_bytes())
    assert status() == 200
    trusted.write_bytes(b"no certificate")
    assert status() == 200  # the last good one is kept
    trusted.write_bytes(certificate()[1])
    assert status() == 502


def test_files_that_are_not_there_are_named(stage, files, tmp_path):
    with pytest.raises(ConfigurationError, match="upstream_tls_ca"):
        stage.proxy(rest={"upstream": "https://localhost:1", "upstream_tls_ca": tmp_path / "absent.pem"})
    with pytest.raises(ConfigurationError, match=r"absent\.pem"):
        stage.proxy(tls=files.model_copy(update={"key": tmp_path / "absent.pem"}))
