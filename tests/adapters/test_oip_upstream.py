"""An upstream that hangs, is not there, or dies without a word."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, perf_counter

import grpc
import pytest

from demur.adapters.servers import listener
from demur.adapters.servers.oip import upstream as upstreams
from demur.adapters.servers.oip.places import CrowdedError, Places
from demur.adapters.servers.oip.renewal import Renewed
from demur.monitor.config.server import LimitsConfig
from demur.proto.oip.inference_pb2 import ModelInferRequest
from tests.adapters.conftest import INFER, SERVICE, answer, request

SOON = {"document": {"upstream_timeout_seconds": 0.4}}
LIVE = f"{SERVICE}ServerLive"


@pytest.fixture
def hung(stage):
    """The stage's upstream answers everything but inferences of model `digits`, until it is released."""
    release = threading.Event()

    def script(method, message, _context):
        if method == INFER and ModelInferRequest.FromString(message).model_name == "digits":
            release.wait(20)
        return answer().SerializeToString()

    stage.upstream.script = script
    yield release
    release.set()


def test_a_call_that_is_not_answered_ends_and_says_whose_silence_it_was(stage, hung):
    began = perf_counter()
    error = stage.refused(stage.proxy(**SOON), request(), timeout=None)
    assert 0.4 <= perf_counter() - began < 5
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    said = f"demur: upstream {stage.target} did not answer within 0.4 s (proxy.upstream_timeout_seconds)"
    assert error.details() == said
    assert stage.decisions == []


def test_a_shorter_deadline_of_the_client_is_the_upstreams_too(stage, hung):
    error = stage.refused(stage.proxy(), request(), timeout=0.3)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "upstream_timeout" not in error.details()
    assert stage.upstream.seen[0][3] < 0.35  # on the wire it is rounded up to milliseconds


def test_a_model_that_hangs_leaves_places_for_the_others(stage, hung):
    """Of eight places six are one model's; other models, health and metadata are answered meanwhile."""
    proxy = stage.proxy(limits=LimitsConfig(concurrent_rpcs=8), document={"upstream_timeout_seconds": 3})
    call = stage.channel(proxy.address).unary_unary(INFER)
    waiting = [call.future(request(), timeout=15) for _ in range(6)]
    ends = monotonic() + 10
    while len(stage.upstream.seen) < 6 and monotonic() < ends:
        threading.Event().wait(0.01)
    refused = stage.refused(proxy, request(), timeout=2)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.details() == "demur: 6 such calls wait for upstream already; try again"
    assert stage.infer(proxy, request(model="letters"), timeout=2) == answer().SerializeToString()
    live = stage.channel(proxy.address).unary_unary(LIVE)
    assert [live(b"", timeout=2) for _ in range(3)] == [answer().SerializeToString()] * 3
    assert {c.exception().code() for c in waiting} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    hung.set()
    assert stage.infer(proxy, request()) == answer().SerializeToString()  # the places are free again


def test_nobody_at_the_address(stage):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = f"127.0.0.1:{taken.getsockname()[1]}"
    error = stage.refused(stage.proxy(upstream=target), request())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details().endswith(f"(demur: upstream {target} is not there, or went away)")


@pytest.mark.parametrize("accepts", [True, False], ids=["speaks to nobody", "drops what comes"])
def test_a_black_hole_ends_in_time(stage, accepts):
    hole = socket.create_server(("127.0.0.1", 0), backlog=16 if accepts else 0)
    filling = []
    if not accepts:  # a full queue of connections: the kernel answers no further one
        for _ in range(4):
            filling.append(socket.socket())
            filling[-1].setblocking(False)
            filling[-1].connect_ex(hole.getsockname())
    target = f"127.0.0.1:{hole.getsockname()[1]}"
    proxy = stage.proxy(upstream=target, **SOON)
    began = perf_counter()
    error = stage.refused(proxy, request(), timeout=None)
    assert perf_counter() - began < 5
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"demur: upstream {target} did not answer within 0.4 s" in error.details()
    for held in (hole, *filling):
        held.close()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_upstreams_own_statuses_keep_their_words(stage, code):
    stage.upstream.script = lambda _method, _message, context: context.abort(code, "the model is being loaded")
    error = stage.refused(stage.proxy(), request())
    assert (error.code(), error.details()) == (code, "the model is being loaded")


class Relay:
    """TCP to the upstream and back, until it freezes: from then on connections are open and nothing moves."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.frozen = False
        self._open = [self._listening]
        self._start(self._accept)

    def close(self) -> None:
        self.frozen = True
        for held in self._open:
            held.close()

    def _start(self, work, *arguments) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                self._start(self._copy, near, far)
                self._start(self._copy, far, near)
        except OSError:
            return

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(1 << 16):
                if self.frozen:
                    return
                other.sendall(data)
        except OSError:
            return


@pytest.fixture
def relay(honest, monkeypatch):
    """A relay before the honest stage's upstream, and a keepalive in which a test can wait."""
    monkeypatch.setattr(upstreams, "KEEPALIVE", tuple((name, 300) for name, _ in upstreams.KEEPALIVE))
    found = Relay(honest.target)
    yield found
    found.close()


def test_a_connection_that_died_without_a_word_is_noticed(honest, relay):
    proxy = honest.proxy(upstream=relay.address)
    assert honest.infer(proxy, request(outputs=("scores",)))
    relay.frozen = True
    began = perf_counter()
    error = honest.refused(proxy, request(outputs=("scores",)), timeout=None)
    assert perf_counter() - began < 10
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details().endswith(f"(demur: upstream {relay.address} is not there, or went away)")


def test_so_is_one_under_a_stream(honest, relay):
    proxy = honest.proxy(upstream=relay.address)
    frozen = threading.Event()

    def requests():
        yield request(outputs=("scores",))
        frozen.wait(10)

    call = honest.channel(proxy.address).stream_stream(f"{SERVICE}ModelStreamInfer")(requests())
    assert next(call)
    relay.frozen = True
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    frozen.set()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details().endswith(f"(demur: upstream {relay.address} is not there, or went away)")


def test_pings_are_rarer_than_servers_forbid():
    """gRPC's servers end connections pinged without data more often than every five minutes, three times over."""
    options = dict(upstreams.KEEPALIVE)
    assert options["grpc.keepalive_time_ms"] > 300_000
    assert options["grpc.keepalive_timeout_ms"] <= 20_000
    assert "grpc.keepalive_permit_without_calls" not in options


def test_places_are_given_back_whatever_happens():
    places = Places(4)
    for _ in range(10):
        with pytest.raises(KeyError), places.one("a"):
            raise KeyError
    with places.one("a"), places.one("a"), places.one("a"):
        with pytest.raises(CrowdedError, match="3 such calls"), places.one("a"):
            pass
        with places.one("b"):
            pass
    with places.one("a"):
        assert places._held == {"a": 1}
    assert places._held == {}  # names come from clients: none is kept


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (request(), b"digits"),
        (request(model="x" * 200), b""),
        (b"", b""),
        (b"\x0a", b""),
        (b"\x0a\x05ab", b"ab"),
        (b"\x12\x02ab", b""),
    ],
)
def test_calls_are_told_apart_by_their_models(message, kind):
    assert upstreams._kind(INFER, message) == (INFER, kind)


def test_a_client_that_died_without_a_word_gives_its_place_back(honest, monkeypatch):
    quick = tuple(
        (name, 300 if "keepalive" in name or "timeout" in name else value) for name, value in listener.OPTIONS
    )
    monkeypatch.setattr(listener, "OPTIONS", quick)
    proxy = honest.proxy(document={"streams": 1})
    relay, waiting = Relay(proxy.address), threading.Event()

    def requests():
        yield request(outputs=("scores",))
        waiting.wait(10)

    call = honest.channel(relay.address).stream_stream(f"{SERVICE}ModelStreamInfer")(requests())
    assert next(call)
    with pytest.raises(grpc.RpcError, match="calls are open already"):
        honest.streamed(proxy.address, [request(outputs=("scores",))])
    relay.frozen = True
    ends, heard = monotonic() + 10, []
    while not heard and monotonic() < ends:
        try:
            heard = honest.streamed(proxy.address, [request(outputs=("scores",))])
        except grpc.RpcError:
            threading.Event().wait(0.1)
    assert heard
    waiting.set()
    call.cancel()
    relay.close()


def test_streams_end_on_channels_that_were_replaced_meanwhile(honest, monkeypatch, tmp_path):
    """The last of them closes its channel, from a thread that gRPC does not need for ending the calls of another."""
    monkeypatch.setattr("demur.adapters.servers.oip.renewal.LOOK_SECONDS", 0.0)
    made, closed = [], []

    def make():
        made.append(upstreams._Channels(honest.target, None, ()))
        return made[-1]

    def close(channels):
        channels.close()
        closed.append(channels)

    authority, proxy = tmp_path / "ca.pem", honest.proxy()
    authority.write_text("0")
    proxy._upstream._channels = Renewed(authority, make, close)
    opened = honest.channel(proxy.address).stream_stream(f"{SERVICE}ModelStreamInfer")

    def stream(number):
        for n in range(12):
            new = tmp_path / f"new-{number}"
            new.write_text("0" * (12 * number + n + 1))
            new.rename(authority)
            assert len(list(opened(iter([request()] * 3), timeout=8))) == 3

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(stream, range(6)))
    assert len(made) > 6
    ends = monotonic() + 5
    while len(closed) < len(made) - 1 and monotonic() < ends:
        threading.Event().wait(0.01)
    assert sorted(map(id, closed)) == sorted(map(id, made[:-1]))
