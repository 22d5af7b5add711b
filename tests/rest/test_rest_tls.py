"""TLS to clients and to upstream."""

from __future__ import annotations

import ssl
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from demur.adapters.servers.oip.rest import proxy as proxies
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


def test_a_renewed_certificate_is_used_without_a_restart(stage, files, monkeypatch):
    monkeypatch.setattr(proxies, "RENEWAL_SECONDS", 0.05)
    proxy = stage.proxy(tls=files).replace("127.0.0.1", "localhost")
    key, cert = certificate()
    files.key.write_bytes(b"half of a file")
    sleep(0.2)  # the last good one is kept
    old = ssl.create_default_context(cafile=str(files.certificate))
    assert httpx.get(proxy + "/v2", verify=old, timeout=20).status_code == 400
    files.certificate.write_bytes(cert)
    files.key.write_bytes(key)
    new, ends = ssl.create_default_context(cafile=str(files.certificate)), monotonic() + 10
    while True:
        try:
            assert httpx.get(proxy + "/v2", verify=new, timeout=20).status_code == 400
            break
        except httpx.ConnectError:
            assert monotonic() < ends
            sleep(0.05)


def test_files_that_are_not_there_are_named(stage, files, tmp_path):
    with pytest.raises(ConfigurationError, match="upstream_tls_ca"):
        stage.proxy(rest={"upstream": "https://localhost:1", "upstream_tls_ca": tmp_path / "absent.pem"})
    with pytest.raises(ConfigurationError, match="certificate"):
        stage.proxy(tls=files.model_copy(update={"key": tmp_path / "absent.pem"}))
