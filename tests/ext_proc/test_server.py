"""The server: addresses, TLS, health, configuration, `demur serve`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from urllib.request import urlopen

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demur.adapters.servers.ext_proc import ExtProcServer
from demur.monitor.audit.export import read_log
from demur.monitor.config.document import parse
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.server import ServerConfig, TlsConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import ConfigurationError
from demur.monitor.loaded import Loaded
from demur.monitor.service.health import Health
from demur.monitor.service.tls import credentials
from tests.ext_proc.conftest import BAD, CHAT, GOOD, PATH, ROWS, TOKENS, ask, choice, completion, infer, scores
from tests.ext_proc.simulator import Answer, Envoy
from tests.service.test_security import Authority

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
SERVING, NOT_SERVING = 1, 2


def config(listen="127.0.0.1:0", **more):
    digits = {"monitor": "toy", "signals": {"logits": "scores"}}
    return ExtProcConfig.model_validate({"listen": listen, "infer": {"digits": digits}, **more})


def engines():
    return {"toy": Engine(Loaded.open(ROWS))}


def health_of(address, service):
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def test_a_unix_socket(tmp_path):
    server = ExtProcServer(config(f"unix:{tmp_path}/demur.sock"), engines())
    assert server.start() == server.address == f"unix:{tmp_path}/demur.sock"
    assert Envoy(server.address, lambda *_: Answer(body=scores(GOOD))).request(PATH, infer()).status == 200
    server.stop()


def test_mutual_tls(tmp_path):
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.issue("server")
    secret = credentials(TlsConfig(certificate=certificate, key=key, client_ca=authority.path))
    server = ExtProcServer(config(), engines(), server_credentials=secret)
    server.start()
    mine, my_key = (p.read_bytes() for p in authority.issue("envoy"))
    trusted = grpc.ssl_channel_credentials(authority.path.read_bytes(), my_key, mine)
    envoy = Envoy(server.address, lambda *_: Answer(body=scores(BAD)), credentials=trusted)
    found = envoy.request(PATH, infer())
    assert (found.status, len(found.parts), found.failed) == (200, 4, "")
    for stranger in (None, grpc.ssl_channel_credentials(authority.path.read_bytes())):
        envoy.credentials = stranger
        assert envoy.request(PATH, infer()).status == 500
    server.stop()


def test_an_address_that_is_taken():
    first = ExtProcServer(config(), engines())
    first.start()
    second = ExtProcServer(config(first.address), engines())
    with pytest.raises(ConfigurationError, match="cannot be listened on"):
        second.start()
    first.stop()
    second.stop()


def test_health_follows_the_process():
    health = Health()
    server = ExtProcServer(config(), engines(), health=health)
    address = server.start()
    assert health_of(address, SERVICE) == health_of(address, "") == NOT_SERVING
    health.tell(ready=True, working=True)
    assert [health_of(address, name) for name in (SERVICE, "", "readiness", "liveness")] == [SERVING] * 4
    health.drain()
    assert [health_of(address, name) for name in (SERVICE, "", "readiness", "liveness")] == [NOT_SERVING] * 3 + [
        SERVING
    ]
    server.stop()


def test_another_method_is_unimplemented(world):
    with grpc.insecure_channel(world().server.address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(f"/{SERVICE}/Other")(b"", timeout=5)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_stopping_lets_exchanges_end_and_then_breaks_them(world):
    made = world("enforce")
    entered, go = threading.Event(), threading.Event()

    def upstream(*_):
        entered.set()
        go.wait(10)
        return Answer(body=scores(GOOD))

    results = []
    thread = threading.Thread(target=lambda: results.append(made.envoy(upstream).request(PATH, infer())))
    thread.start()
    entered.wait(10)
    made.server.stop(0.2)
    go.set()
    thread.join(20)
    assert (results[0].status, results[0].body) == (500, b""), "an error, which Envoy does not take for a clean end"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"infer": {"digits": {"monitor": "nobody"}}}, "no monitor is named 'nobody'"),
        ({"completions": {"*": {"monitor": "nobody"}}}, "no monitor is named 'nobody'"),
        ({}, "expected models"),
        ({"infer": {"digits": {"monitor": "toy"}}, "blocked_status": 200}, "blocked_status"),
        ({"infer": {"digits": {"monitor": "toy"}}, "budget_ms": 0}, "budget_ms"),
        ({"infer": {"digits": {"monitor": "toy"}}, "listen": "nowhere"}, "listen"),
        ({"infer": {"digits": {"monitor": "toy"}}, "unknown": 1}, "unknown"),
    ],
)
def test_configurations_are_checked(section, said):
    document = {"monitors": [{"name": "toy", "bundle": "x"}], "ext_proc": {"listen": "127.0.0.1:0", **section}}
    with pytest.raises(ConfigurationError, match=said):
        parse(ServerConfig, document, "test")


def test_demur_serve_records_and_counts(tmp_path):
    ROWS.save(tmp_path / "toy.demur")
    TOKENS.save(tmp_path / "tokens.demur")
    document = {
        "listen": ["127.0.0.1:0"],
        "metrics_listen": "127.0.0.1:0",
        "monitors": [
            {"name": "toy", "bundle": str(tmp_path / "toy.demur"), "mode": "enforce"},
            {"name": "tokens", "bundle": str(tmp_path / "tokens.demur")},
        ],
        "audit": {"directory": str(tmp_path / "audit"), "origin": "test"},
        "ext_proc": {
            "listen": "127.0.0.1:0",
            "infer": {"digits": {"monitor": "toy", "signals": {"logits": "scores"}}},
            "completions": {"*": {"monitor": "tokens"}},
            "budget_ms": 5000,
        },
    }
    path = tmp_path / "demur.yaml"
    path.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(path), "--announce"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            at = json.loads(process.stdout.readline())
            said = {PATH: scores(BAD), CHAT: completion(choice(-0.1))}
            envoy = Envoy(
                at["ext_proc"],
                lambda head, _: Answer(headers={"content-type": "application/json"}, body=said[head[":path"]]),
            )
            blocked = envoy.request(PATH, infer(), {"x-request-id": "abc"})
            assert (blocked.status, blocked.headers["demur-monitor"]) == (412, "toy")
            assert envoy.request(CHAT, ask(logprobs=True), {"x-request-id": "abc"}).status == 200
            assert health_of(at["ext_proc"], SERVICE) == SERVING
            time.sleep(0.3)
            with urlopen(f"http://127.0.0.1:{at['metrics']}/metrics", timeout=5) as answer:
                metrics = answer.read().decode()
            lines = [x for x in metrics.splitlines() if 'protocol="ext_proc"' in x]
            assert any('monitor="toy"' in x for x in lines), metrics[:2000]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    found = [r for r, _ in read_log(tmp_path / "audit") if r.kind in ("verdict", "stream")]
    assert [(r.kind, r.monitor, r.request, r.model_name, r.action) for r in found] == [
        ("verdict", "toy", "r-1", "digits", "block"),
        ("stream", "tokens", "abc", "gpt", "none"),
    ]
