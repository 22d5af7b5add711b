"""Addresses of a configuration: a port that does not exist, or a scheme that its protocol does not have, is refused by its key."""

from __future__ import annotations

import pytest

from demur.monitor.config.document import parse
from demur.monitor.config.server import ServerConfig
from demur.monitor.errors import ConfigurationError

MONITORS = {"monitors": [{"name": "a", "bundle": "a.demur"}]}


def proxy(**keys):
    return {"proxy": {"models": {"m": {"monitor": "a"}}, **keys}}


def rest(upstream, listen="127.0.0.1:0"):
    return proxy(rest={"listen": listen, "upstream": upstream})


def grpc(upstream):
    return proxy(listen="127.0.0.1:0", upstream=upstream)


REFUSED = {
    "listen.0": {"listen": ["127.0.0.1:65536"]},
    "health_listen": {"health_listen": "127.0.0.1:99999"},
    "metrics_listen": {"metrics_listen": "[::1]:99999"},
    "proxy.listen": proxy(listen="127.0.0.1:99999", upstream="127.0.0.1:1"),
    "proxy.rest.listen": rest("http://127.0.0.1:1", listen="127.0.0.1:99999"),
    "ext_proc.listen": {"ext_proc": {"listen": "0.0.0.0:65536", "infer": {"m": {"monitor": "a"}}}},
    "proxy.upstream: expected a port": grpc("127.0.0.1:99999"),
    "proxy.rest.upstream": rest("http://127.0.0.1:99999"),
    "proxy.rest.upstream: expected http": rest("http://127.0.0.1:80x"),
    "proxy.upstream: expected host:port or unix:/path, without http://": grpc("http://127.0.0.1:8001"),
    "proxy.upstream: expected host:port or unix:/path, without grpcs://": grpc("grpcs://127.0.0.1:8001"),
}


@pytest.mark.parametrize("says", REFUSED)
def test_an_address_that_cannot_be_is_refused(says):
    with pytest.raises(ConfigurationError, match=says):
        parse(ServerConfig, {**MONITORS, **REFUSED[says]}, "demur.yaml")


@pytest.mark.parametrize(
    "good",
    [
        {"listen": ["127.0.0.1:65535", "[::1]:0", "unix:/run/a:99999", "host:1"]},
        grpc("unix:/run/a:99999"),
        grpc("dns:///triton.models:8001"),
        grpc("triton.models:8001"),
        grpc("[::1]:8001"),
        rest("https://triton.models"),
        rest("http://[::1]:8000/"),
    ],
)
def test_every_address_that_grpc_and_http_know_is_taken(good):
    parse(ServerConfig, {**MONITORS, **good}, "demur.yaml")
