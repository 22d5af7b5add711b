"""Our accumulators as a Prometheus scrape, from a registry of its own."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Scraped
from prometheus_client.registry import Collector

from demur.monitor.telemetry.families import Buckets, Family

_CLIENT_SECONDS = 10


class TlsFiles(Protocol):
    """PEM files; `client_ca` makes client certificates compulsory."""

    @property
    def certificate(self) -> Path: ...
    @property
    def key(self) -> Path: ...
    @property
    def client_ca(self) -> Path | None: ...


class FamilyCollector(Collector):
    """Families to Prometheus metrics, at scrape time."""

    def __init__(self, collect: Callable[[], Iterable[Family]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Scraped]:
        return ()

    def collect(self) -> Iterator[Scraped]:
        for family in self._collect():
            yield _scraped(family)


class MetricsServer:
    """The endpoint, serving in threads of its own until closed."""

    def __init__(self, server: WSGIServer) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="demur-scrape", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)


def serve_metrics(
    address: str, collect: Callable[[], Iterable[Family]], tls: TlsFiles | ssl.SSLContext | None = None
) -> MetricsServer:
    """Serve on `address` (host:port; port 0: any free one, see `.port`). A context that reads its files again is used as it is.

    Raises: ValueError for an address that is not host:port; OSError when it is taken or a TLS file cannot be read.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or address.startswith("unix:"):
        raise ValueError(f"metrics address: expected host:port, got {address!r}; for example 127.0.0.1:9464")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FamilyCollector(collect))
    try:
        server = _bound(host.strip("[]"), int(port))
    except OSError as error:
        raise OSError(
            f"metrics address {address}: cannot be listened on ({error.strerror}); is another server there?"
        ) from error
    server.set_app(make_wsgi_app(registry))
    if tls is not None:
        try:
            _secure(server, tls)
        except BaseException:
            server.server_close()
            raise
    return MetricsServer(server)


def _bound(host: str, port: int) -> WSGIServer:
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    kind = type("MetricsWsgiServer", (_Server,), {"address_family": family})
    server: WSGIServer = kind((place[0], place[1]), _Handler)
    return server


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the overridden parameter
        """Scrapes are not news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer would ask DNS for this host's name, which can hang.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up or fails its handshake is its own affair."""


def _secure(server: WSGIServer, tls: TlsFiles | ssl.SSLContext) -> None:
    context = tls if isinstance(tls, ssl.SSLContext) else _context(tls)
    # The handshake happens at the first read, in the connection's thread: a silent client must not stop the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)


def _context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _scraped(family: Family) -> Scraped:
    about = family.metric
    name, text, labels = about.prometheus, about.description, about.attributes
    if about.kind == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for buckets in family.buckets:
            histogram.add_metric(
                buckets.labels, _cumulative(about.bounds, buckets), None if about.signed else buckets.total
            )
        return histogram
    numbers: CounterMetricFamily | GaugeMetricFamily
    numbers = (
        CounterMetricFamily(name, text, labels=labels)
        if about.kind == "counter"
        else GaugeMetricFamily(name, text, labels=labels)
    )
    for point in family.points:
        numbers.add_metric(point.labels, point.value)
    return numbers


def _cumulative(bounds: tuple[float, ...], buckets: Buckets) -> list[tuple[str, float]]:
    edges = [f"{bound:g}" for bound in bounds] + ["+Inf"]
    return list(zip(edges, accumulate(buckets.counts), strict=True))
