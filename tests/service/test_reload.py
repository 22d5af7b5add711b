"""A bundle file that changes in every way files do."""

from __future__ import annotations

import os
import signal
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demur.monitor.bundle import activation, signature
from tests.service.bundles import BAD, GOOD, row_bundle
from tests.service.conftest import accepted, refused, rows


def eventually(check, seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def digest(server) -> str:
    return server.registry.get("toy").engine.loaded.bundle.digest


def test_a_changed_file_is_taken(start, connect, tmp_path, heard):
    server = start()
    stub = connect(server.addresses[0])
    assert accepted(stub.Assess(rows([BAD]), timeout=5)) == [False]
    newer = row_bundle(2, limit=0.5)
    newer.save(tmp_path / "toy.demur")
    eventually(lambda: digest(server) == newer.digest)
    answer = stub.Assess(rows([BAD]), timeout=5)
    assert (accepted(answer), answer.bundle) == ([True], newer.digest)
    assert [(e.accepted, e.version) for e in heard.bundles] == [(True, 1), (True, 2)]


def test_sighup_looks_at_once(start, tmp_path):
    server = start(watch_seconds=3600)
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    try:
        server.handle_signals()
        newer = row_bundle(2)
        newer.save(tmp_path / "toy.demur")
        time.sleep(0.1)
        assert digest(server) != newer.digest
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: digest(server) == newer.digest)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)


def test_a_config_map_swap_is_seen(start, connect, tmp_path):
    mount = tmp_path / "mount"
    for number in (1, 2):
        row_bundle(number).save(mount / f"..{number}" / "toy.demur")
    (mount / "..data").symlink_to("..1")
    (mount / "toy.demur").symlink_to("..data/toy.demur")
    server = start({"toy": mount / "toy.demur"})
    assert server.registry.get("toy").engine.loaded.manifest.version == 1
    (mount / "..data_tmp").symlink_to("..2")
    (mount / "..data_tmp").rename(mount / "..data")
    eventually(lambda: server.registry.get("toy").engine.loaded.manifest.version == 2)


def test_a_corrupt_file_keeps_the_last_good_and_a_good_one_ends_it(start, connect, tmp_path, heard):
    server = start()
    stub, path = connect(server.addresses[0]), tmp_path / "toy.demur"
    first, newer = digest(server), row_bundle(2)
    raw = newer.encode()
    path.write_bytes(raw[: len(raw) // 2])
    eventually(lambda: stub.GetMonitor(_get(), timeout=5).last_error)
    info = stub.GetMonitor(_get(), timeout=5)
    assert (info.ready, info.bundle) == (True, first)
    assert "damaged" in info.last_error
    assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]
    flipped = bytearray(raw)
    flipped[raw.index(b"weak promises") + 3] ^= 1
    path.write_bytes(flipped)
    eventually(lambda: "CRC-32" in stub.GetMonitor(_get(), timeout=5).last_error)
    assert digest(server) == first
    path.write_bytes(raw)
    eventually(lambda: digest(server) == newer.digest)
    assert not stub.GetMonitor(_get(), timeout=5).last_error
    assert [e.accepted for e in heard.bundles] == [True, False, False, True]


def test_an_unchanged_failure_is_said_once(start, tmp_path, heard):
    server = start(watch_seconds=0.02)
    (tmp_path / "toy.demur").write_bytes(b"not a bundle")
    eventually(lambda: len(heard.bundles) == 2)
    for _ in range(3):
        server.reload()
        time.sleep(0.05)
    assert len(heard.bundles) == 2


def test_a_lower_version_needs_an_activation_of_exactly_that_bundle(start, tmp_path, heard):
    path = tmp_path / "toy.demur"
    server, older, other = start({"toy": row_bundle(5)}), row_bundle(4), row_bundle(3)
    first = digest(server)
    older.save(path)
    eventually(lambda: "version 4 is lower than version 5" in server.registry.get("toy").error)
    assert digest(server) == first
    activation.allow(path, other, by="eve")
    time.sleep(0.3)
    assert digest(server) == first
    activation.allow(path, older, by="ada", reason="5 refuses too much")
    eventually(lambda: digest(server) == older.digest)
    assert not server.registry.get("toy").error
    assert "allowed by ada" in heard.bundles[-1].cause
    assert "5 refuses too much" in heard.bundles[-1].cause


def test_a_malformed_activation_allows_nothing(start, tmp_path):
    path = tmp_path / "toy.demur"
    server = start({"toy": row_bundle(5)})
    first = digest(server)
    activation.path_for(path).write_text('{"digest": "*", "version": 1}')
    row_bundle(4).save(path)
    eventually(lambda: "not an activation file" in server.registry.get("toy").error)
    assert digest(server) == first


@pytest.mark.parametrize("signed_by", [None, "stranger", "friend"])
def test_listed_keys_make_a_signature_required(start, tmp_path, connect, signed_by):
    friend, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = tmp_path / "friend.pub"
    public.write_bytes(signature.public_pem(friend.public_key()))
    bundle = row_bundle()
    if signed_by is not None:
        bundle = bundle.sign(friend if signed_by == "friend" else stranger)
    server = start({"toy": bundle}, monitor={"public_keys": [str(public)]})
    assert server.registry.ready == (signed_by == "friend")


def test_a_request_keeps_the_bundle_it_began_with(start, connect, tmp_path, monkeypatch):
    server = start(watch_seconds=3600)
    engine, stub = server.registry.get("toy").engine, connect(server.addresses[0])
    first, assess = digest(server), engine.assess

    def swapped(observation, *, loaded, **options):
        row_bundle(2, limit=0.5).save(tmp_path / "toy.demur")
        server._look(True)
        return assess(observation, loaded=loaded, **options)

    monkeypatch.setattr(engine, "assess", swapped)
    answer = stub.Assess(rows([BAD]), timeout=5)
    assert (accepted(answer), answer.bundle) == ([False], first)
    monkeypatch.undo()
    assert accepted(stub.Assess(rows([BAD]), timeout=5)) == [True]


def test_one_broken_monitor_does_not_keep_the_others_from_being_served(start, connect, tmp_path):
    broken = tmp_path / "broken.demur"
    broken.write_bytes(b"PK")
    server = start({"toy": row_bundle(), "broken": broken})
    stub = connect(server.addresses[0])
    assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]
    error = refused(lambda: stub.Assess(rows([GOOD], monitor="broken"), timeout=5))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no usable bundle" in error.details()
    assert not server.registry.ready
    row_bundle().save(broken)
    eventually(lambda: server.registry.ready)
    assert accepted(stub.Assess(rows([GOOD], monitor="broken"), timeout=5)) == [True]


def _get():
    from demur.proto.v1 import monitor_pb2 as pb

    return pb.GetMonitorRequest(monitor="toy")
