"""A server that comes back: it takes no bundle that it would have refused while it ran."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demur.monitor.audit import AuditLog, Record, verify_log
from demur.monitor.audit.export import read_log
from demur.monitor.audit.keys import generate
from demur.monitor.bundle import Bundle, activation, succession
from demur.monitor.bundle.succession import LastServed
from demur.monitor.cli.server import build
from demur.monitor.config.document import parse
from demur.monitor.config.server import ServerConfig
from demur.monitor.errors import BundleError
from demur.monitor.event import BundleEvent
from demur.monitor.recorder import ACTIVATED, AuditTrail
from demur.monitor.service.server import Server
from tests.service.bundles import row_bundle
from tests.service.test_reload import digest, eventually


def restarted(server, start, path, **options):
    """The same configuration again, after a clean stop."""
    server.stop()
    return start({"toy": path}, **options)


def error(server) -> str:
    return server.registry.get("toy").error


def other_bundle(version: int = 1) -> Bundle:
    """One that differs in the monitor's name alone."""
    good = row_bundle(version)
    fields = {k: getattr(good.manifest, k) for k in type(good.manifest).model_fields}
    kept = {k: v for k, v in fields.items() if k not in ("members", "schema_version", "rules_digest")}
    return Bundle.build(good.members, **{**kept, "monitor": "other"})


def test_a_restart_refuses_an_older_version_too(start, tmp_path, heard):
    path = tmp_path / "toy.demur"
    server = start({"toy": row_bundle(5)})
    row_bundle(4).save(path)
    server = restarted(server, start, path)
    assert not server.registry.ready
    assert "version 4 is lower than version 5, the last one served here" in error(server)
    assert "version 4 is lower" in heard.bundles[-1].cause
    row_bundle(5).save(path)
    eventually(lambda: server.registry.ready)


def test_a_restart_takes_the_same_and_a_newer_version(start, tmp_path):
    path = tmp_path / "toy.demur"
    server = restarted(start({"toy": row_bundle(5)}), start, path)
    assert server.registry.ready
    row_bundle(6).save(path)
    server = restarted(server, start, path)
    assert server.registry.get("toy").engine.loaded.manifest.version == 6


def test_an_activation_holds_over_a_restart_and_the_lower_version_is_then_the_last(start, tmp_path, heard):
    path, older = tmp_path / "toy.demur", row_bundle(4)
    server = start({"toy": row_bundle(5)})
    older.save(path)
    activation.allow(path, older, by="ada", reason="5 refuses too much")
    server = restarted(server, start, path)
    assert digest(server) == older.digest
    assert "rollback from version 5 to 4 allowed by ada" in heard.bundles[-1].cause
    activation.path_for(path).unlink()
    server = restarted(server, start, path)
    assert digest(server) == older.digest
    row_bundle(3).save(path)
    server = restarted(server, start, path)
    assert "version 3 is lower than version 4" in error(server)


def test_the_log_counts_where_the_file_is_gone(start, tmp_path):
    path = tmp_path / "toy.demur"
    recorded = {"toy": LastServed("toy", 7, "toy"), "another": LastServed("another", 9, "another")}
    server = start({"toy": row_bundle(6)}, options={"recorded": recorded})
    assert "version 6 is lower than version 7" in error(server)
    row_bundle(7).save(path)
    eventually(lambda: server.registry.ready)
    succession.path_for(path).unlink()
    row_bundle(6).save(path)
    server = restarted(server, start, path, options={"recorded": recorded})
    assert "version 6 is lower than version 7" in error(server)


@pytest.mark.parametrize("newer_in", ["file", "log"])
def test_the_higher_of_file_and_log_counts(start, tmp_path, newer_in):
    path = tmp_path / "toy.demur"
    file, log = (8, 3) if newer_in == "file" else (3, 8)
    succession.remember(path, LastServed("toy", file, "toy"))
    server = start({"toy": row_bundle(5)}, options={"recorded": {"toy": LastServed("toy", log, "toy")}})
    assert "version 5 is lower than version 8" in error(server)


def test_what_was_served_from_this_file_under_another_name_does_not_count(start, tmp_path):
    succession.remember(tmp_path / "toy.demur", LastServed("another", 9, "another"))
    assert start({"toy": row_bundle(5)}).registry.ready


def test_two_names_on_one_file_do_not_forget_for_each_other(start, tmp_path):
    """Nor does a monitor that is served under another name now."""
    path = tmp_path / "toy.demur"
    row_bundle(5).save(path)
    start({"toy": path, "other": path}).stop()
    row_bundle(4).save(path)
    server = start({"toy": path, "other": path, "third": path})
    assert all("version 4 is lower than version 5" in server.registry.get(n).error for n in ("toy", "other", "third"))


def test_a_note_is_written_as_soon_as_it_can_be(start, tmp_path, monkeypatch):
    path, room = tmp_path / "toy.demur", []
    install = succession.install

    def full(*given):
        if not room:
            raise BundleError("no room")
        install(*given)

    monkeypatch.setattr(succession, "install", full)
    server = start({"toy": row_bundle(5)})
    assert server.registry.ready
    assert not succession.path_for(path).exists()
    room.append(True)
    eventually(lambda: succession.path_for(path).exists())


def test_the_log_speaks_where_the_note_is_damaged_and_mends_it(start, tmp_path):
    path = tmp_path / "toy.demur"
    row_bundle(5).save(path)
    succession.path_for(path).write_bytes(b"")
    assert start({"toy": path}, options={"recorded": {"toy": LastServed("toy", 5, "toy")}}).registry.ready
    assert succession.read(path).version == 5


def test_a_version_of_nineteen_digits_is_read_from_a_log():
    assert ACTIVATED.fullmatch("version 1790000000000000000 of toy activated").group(1) == "1790000000000000000"


def test_another_monitors_bundle_is_refused_hot_and_after_a_restart(start, tmp_path):
    path = tmp_path / "toy.demur"
    server = start({"toy": row_bundle(1)})
    first, other = digest(server), other_bundle(2)
    other.save(path)
    eventually(lambda: "expected a bundle of the monitor toy, got one of other" in error(server))
    assert digest(server) == first
    activation.allow(path, other)  # leave to go back, and to nothing else
    server = restarted(server, start, path)
    assert not server.registry.ready
    assert "got one of other" in error(server)


@pytest.mark.parametrize(
    "raw", [b"{}", b"[" * 30_000, b'{"name": "toy", "version": 0, "monitor": "toy"}', b"\xff", b"x" * (65 << 10)]
)
def test_a_damaged_note_serves_nothing_until_it_is_gone(start, tmp_path, raw):
    note = succession.path_for(tmp_path / "toy.demur")
    note.write_bytes(raw)
    server = start()
    assert "remove" in error(server)
    assert str(note) in error(server)
    note.unlink()
    eventually(lambda: server.registry.ready)


def test_a_folder_that_cannot_be_written_is_said_and_serves(start, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise BundleError("no room")

    monkeypatch.setattr(succession, "install", full)
    assert start().registry.ready
    assert "no room" in caplog.text
    caplog.clear()
    path = tmp_path / "toy.demur"
    assert start({"toy": path}, options={"recorded": {}}).registry.ready
    assert "no room" not in caplog.text


def test_a_signature_does_not_make_an_old_version_new(start, tmp_path):
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "toy.demur"
    server = start({"toy": row_bundle(5).sign(key)})
    row_bundle(4).sign(key).save(path)
    assert "version 4 is lower" in error(restarted(server, start, path))


def test_the_log_names_what_was_activated_last_under_each_name(tmp_path):
    signer = generate("toy")
    with AuditLog.open(tmp_path, origin="toy", signer=signer) as log:
        trail = AuditTrail(log)
        assert trail.last_served() == {}
        for event in (
            BundleEvent("a", "00" * 32, 1, accepted=True, built_for="digits"),
            BundleEvent("a", "11" * 32, 3, accepted=True, built_for="digits"),
            BundleEvent("b", "22" * 32, 7, accepted=True),
            BundleEvent("a", "", 0, accepted=False, cause="version 9 of digits activated"),
        ):
            trail.on_bundle(event)
        log.append(Record(kind="label", monitor="a", note='"kind":"bundle" version 9 of digits activated'))
    assert verify_log(tmp_path).ok
    with AuditLog.open(tmp_path, origin="toy", signer=signer) as log:
        assert AuditTrail(log).last_served() == {"a": LastServed("a", 3, "digits"), "b": LastServed("b", 7, "")}


def test_serve_asks_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "handle_signals", lambda _: None)
    path = tmp_path / "toy.demur"
    document = {
        "listen": ["127.0.0.1:0"],
        "monitors": [{"name": "toy", "bundle": str(path)}],
        "audit": {"directory": str(tmp_path / "log"), "origin": "toy"},
    }
    for version, waiting in ((5, []), (4, ["toy"]), (5, [])):
        row_bundle(version).save(path)
        succession.path_for(path).unlink(missing_ok=True)
        running = build(parse(ServerConfig, document, "test"))
        running.start()
        try:
            assert running.waiting() == waiting
        finally:
            running.stop()
    said = [(r.note, r.cause) for r, _ in read_log(tmp_path / "log") if r.kind == "bundle"]
    assert [note for note, _ in said] == ["version 5 of toy activated", "refused", "version 5 of toy activated"]
    assert "version 4 is lower than version 5" in said[1][1]


def test_a_log_of_an_earlier_version_of_demur_is_read(tmp_path):
    signer = generate("toy")
    with AuditLog.open(tmp_path, origin="toy", signer=signer) as log:
        log.append(Record(kind="bundle", monitor="toy", note="version 2 activated"))
        log.append(Record(kind="bundle", monitor="toy", note="version 0 refused", cause="version 1 is lower"))
    with AuditLog.open(tmp_path, origin="toy", signer=signer) as log:
        assert AuditTrail(log).last_served() == {"toy": LastServed("toy", 2, "")}


def test_the_note_is_plain_json(start, tmp_path):
    start()
    said = json.loads((tmp_path / "toy.demur.served").read_bytes())
    assert said == {"schema_version": 1, "name": "toy", "version": 1, "monitor": "toy"}
