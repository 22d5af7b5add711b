import http.client
import socket
import ssl
import urllib.request
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from demur.monitor.event import BundleEvent, RefusalEvent
from demur.monitor.telemetry import Telemetry, TelemetryConfig, names
from demur.monitor.telemetry.prometheus import serve_metrics

from .events import BUNDLE, MIXED, event, repeated

LOOPBACK = TelemetryConfig(prometheus_listen="127.0.0.1:0")


@pytest.fixture
def telemetry():
    telemetry = Telemetry(LOOPBACK)
    yield telemetry
    telemetry.close()


def get(telemetry, accept="text/plain") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", telemetry.scrape.port, timeout=10)
    connection.request("GET", "/metrics", headers={"Accept": accept})
    answer = connection.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    connection.close()
    return text


def samples(text: str) -> dict:
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    by_name = {(s.name, frozenset(s.labels.items())): s.value for s in found}
    assert len(by_name) == len(found), "no series may appear twice"
    return by_name


def at(found: dict, name: str, **labels) -> float:
    return found[name, frozenset(labels.items())]


def test_a_scrape_shows_exact_counts(telemetry):
    telemetry.on_bundle(BundleEvent("digits", BUNDLE, 3, accepted=True))
    telemetry.on_decision(event())
    telemetry.on_decision(event(repeated(MIXED, 30)))
    telemetry.on_refusal(RefusalEvent("nobody", "unknown"))
    telemetry.watch("demur.ready", lambda: {"digits": 1})
    telemetry.watch("demur.queue.depth", lambda: 4)
    telemetry.watch("demur.streams.live", lambda: 1 / 0)
    found = samples(get(telemetry))
    row = {"monitor": "digits", "unit": "row"}
    assert at(found, "demur_verdicts_total", **row, decision="accept", reason="none") == 31
    assert at(found, "demur_verdicts_total", **row, decision="abstain", reason="novel") == 62
    assert at(found, "demur_reasons_total", **row, reason="ambiguous") == 31
    assert at(found, "demur_actions_total", **row, action="block") == 93
    assert at(found, "demur_refusals_total", monitor="other", kind="unknown", protocol="grpc") == 1
    assert at(found, "demur_p_value_count", **row, column="energy") == 93
    assert at(found, "demur_p_value_bucket", **row, column="energy", le="0.05") == 62
    assert at(found, "demur_p_value_sum", **row, column="energy") == pytest.approx(31 * 0.551, rel=1e-6)
    assert at(found, "demur_score_bucket", **row, column="energy", le="-2") == 31
    assert at(found, "demur_score_bucket", **row, column="energy", le="+Inf") == 93
    assert at(found, "demur_non_finite_total", **row, column="knn") == 62
    assert at(found, "demur_stage_duration_seconds_sum", monitor="digits", stage="audit") == pytest.approx(0.04)
    assert at(found, "demur_assess_duration_seconds_bucket", monitor="digits", le="0.005") == 2
    assert at(found, "demur_bundle_info", monitor="digits", bundle=BUNDLE[:12], version="3") == 1
    assert at(found, "demur_refused_share_ratio", **row) == pytest.approx(2 / 3)
    assert at(found, "demur_refused_promised_ratio", **row) == 0.05
    assert at(found, "demur_ready", monitor="digits") == 1
    assert at(found, "demur_queue_depth") == 4
    assert at(found, "demur_telemetry_errors_total", signal="gauges") == 1
    assert not any(name.startswith("demur_streams") for name, _ in found)


def test_every_scraped_name_is_in_the_table(telemetry):
    telemetry.on_decision(event())
    families = {f.name for f in text_string_to_metric_families(get(telemetry))}
    assert families <= {metric.prometheus.removesuffix("_total") for metric in names.METRICS}
    assert len(families) > 12


def test_openmetrics_parses_too(telemetry):
    telemetry.on_decision(event())
    text = get(telemetry, "application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = {f.name: f for f in openmetrics.text_string_to_metric_families(text)}
    assert families["demur_verdicts"].type == "counter"
    assert families["demur_score"].type == "histogram"


def test_closing_frees_the_port():
    telemetry = Telemetry(LOOPBACK)
    port = telemetry.scrape.port
    telemetry.close()
    telemetry.close()
    again = serve_metrics(f"127.0.0.1:{port}", lambda: ())
    assert again.port == port
    with pytest.raises(OSError, match="in use"):
        serve_metrics(f"127.0.0.1:{port}", lambda: ())
    again.close()


@pytest.mark.parametrize("address", ["", "9464", "unix:/tmp/x:1", "host:", "host:http"])
def test_addresses_that_make_no_sense(address):
    with pytest.raises(ValueError, match="expected host:port"):
        serve_metrics(address, lambda: ())


def test_tls(tmp_path):
    certificate, key = _certificate(tmp_path)
    server = serve_metrics(
        "127.0.0.1:0", Telemetry().collect, SimpleNamespace(certificate=certificate, key=key, client_ca=None)
    )
    try:
        with socket.create_connection(("127.0.0.1", server.port)):  # says nothing, and must not hold up the next
            context = ssl.create_default_context(cafile=certificate)
            with urllib.request.urlopen(
                f"https://127.0.0.1:{server.port}/metrics", context=context, timeout=10
            ) as answer:
                assert b"demur_telemetry_errors_total" in answer.read()
    finally:
        server.close()


def test_a_renewed_certificate_is_used_without_a_restart(tmp_path):
    from demur.monitor.config.server import TlsConfig
    from demur.monitor.service.tls import http_context

    certificate, key = _certificate(tmp_path)
    old = ssl.create_default_context(cafile=certificate)
    server = serve_metrics(
        "127.0.0.1:0", Telemetry().collect, http_context(TlsConfig(certificate=certificate, key=key))
    )

    def scraped(context):
        with urllib.request.urlopen(f"https://127.0.0.1:{server.port}/metrics", context=context, timeout=10) as answer:
            return answer.status

    try:
        assert scraped(old) == 200
        _certificate(tmp_path)
        assert scraped(ssl.create_default_context(cafile=certificate)) == 200
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            scraped(old)
    finally:
        server.close()


def test_tls_files_that_are_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        serve_metrics(
            "127.0.0.1:0", lambda: (), SimpleNamespace(certificate=tmp_path / "c", key=tmp_path / "k", client_ca=None)
        )


def _certificate(folder):
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "k.pem").write_bytes(pem)
    return folder / "c.pem", folder / "k.pem"
