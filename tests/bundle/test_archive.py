"""The file around a bundle: whatever is done to it, it is refused or still says the same."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from demur.monitor.bundle import MANIFEST, Bundle, Manifest, archive
from demur.monitor.errors import BundleError, DigestMismatch, UnsupportedSchema

BUILT = ("members", "schema_version", "rules_digest")
GOLDEN = Path(__file__).parent.parent / "golden" / "sliced.demur"
RAW = GOLDEN.read_bytes()


def zipped(members, **options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as file:
        for name, raw in members:
            file.writestr(name, raw)
    return out.getvalue()


def test_the_same_bytes_come_back():
    assert Bundle.parse(RAW).encode() == RAW


def tiny():
    """A bundle of two members, small enough to try every byte of it."""
    fields = {k: getattr(Bundle.parse(RAW).manifest, k) for k in Manifest.model_fields if k not in BUILT}
    bare = {"statements": [], "cautions": [], "findings": [], "scores": [], "columns": [], "rules": [], "policy": {}}
    return Bundle.build({"a.npy": b"first", "b/c.npy": b"second"}, **{**fields, **bare}).encode()


TINY = tiny()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_refused_or_changes_nothing(mask):
    want = Bundle.parse(TINY)
    refused = 0
    for at in range(len(TINY)):
        damaged = bytearray(TINY)
        damaged[at] ^= mask
        try:
            found = Bundle.parse(bytes(damaged))
        except BundleError:
            refused += 1
            continue
        assert found.raw_manifest == want.raw_manifest
        assert dict(found.members) == dict(want.members)
    assert refused > len(want.raw_manifest) + len(b"firstsecond")


def test_a_file_cut_anywhere_is_refused():
    for length in range(len(TINY)):
        with pytest.raises(BundleError, match=r"damaged|not a bundle"):
            Bundle.parse(TINY[:length])


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/../b", "a//b", "a\\b", ".hidden", "a/b/c/d/e", "x\n", "x/\n"]
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(BundleError):
        archive.read(zipped([(MANIFEST, b"{}"), (name, b"x")]))


def test_compressed_members_are_refused():
    with pytest.raises(BundleError, match="stored"):
        archive.read(zipped([(MANIFEST, b"{}" * 100)], compression=zipfile.ZIP_DEFLATED))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused():
    with pytest.raises(BundleError, match="different names"):
        archive.read(zipped([(MANIFEST, b"{}"), (MANIFEST, b"[]")]))


def test_a_member_that_claims_two_gigabytes_is_refused():
    raw = bytearray(zipped([(MANIFEST, b"{}"), ("big", b"x" * 64)]))
    at = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 4)  # the second entry of the directory
    raw[at + 20 : at + 28] = (2**31 - 1).to_bytes(4, "little") * 2
    with pytest.raises(BundleError, match=r"claim|damaged"):
        archive.read(bytes(raw))


def test_members_beside_the_manifest_are_refused():
    members = {MANIFEST: Bundle.parse(RAW).raw_manifest, **Bundle.parse(RAW).members}
    with pytest.raises(DigestMismatch, match="extra"):
        Bundle.assemble({**members, "extra.npy": b"x"})
    del members["monitor.onnx"]
    with pytest.raises(DigestMismatch, match=r"monitor\.onnx"):
        Bundle.assemble(members)


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        (b"[]", UnsupportedSchema),
        (b'{"schema_version": 2}', UnsupportedSchema),
        (b'{"schema_version": 1, "x": 1}', BundleError),
        (b"{", BundleError),
        (b"[" * 100_000, BundleError),
        (b"\xff", BundleError),
    ],
)
def test_a_manifest_of_another_kind_is_refused(manifest, error):
    with pytest.raises(error):
        Bundle.assemble({MANIFEST: manifest})


def test_installing_is_all_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.demur"
    target.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match=r"No space left.*free space"):
        Bundle.parse(RAW).save(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.demur"]


def test_a_file_that_is_not_there_says_which(tmp_path):
    with pytest.raises(BundleError, match=r"gone\.demur.*demur fit"):
        Bundle.load(tmp_path / "gone.demur")


def test_encrypted_members_are_refused():
    raw = bytearray(zipped([(MANIFEST, b"{}")]))
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(BundleError, match="unencrypted"):
        archive.read(bytes(raw))


def test_a_name_that_could_not_be_read_back_is_not_written():
    with pytest.raises(BundleError, match="not allowed"):
        archive.write({MANIFEST: b"{}", "../evil": b"x"})


def test_nothing_but_a_plain_file_is_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(BundleError, match="no plain file"):
            archive.read_file(path)


def test_a_file_larger_than_any_bundle_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST_BYTES", 100)
    (tmp_path / "big").write_bytes(b"x" * 101)
    with pytest.raises(BundleError, match="larger than 100"):
        archive.read_file(tmp_path / "big")


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.demur"
    target.write_bytes(b"old")

    def killed(_self, _target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        archive.install(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.demur"]


def test_a_folder_that_takes_no_file_says_what_to_do(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(archive.tempfile, "mkstemp", read_only)
    with pytest.raises(BundleError, match=r"Read-only file system.*another folder"):
        archive.install(tmp_path / "a.demur", b"new")


CLAIMS = {
    "a terabyte": {"descr": "<f4", "fortran_order": False, "shape": (1 << 38,)},
    "less than there is": {"descr": "<f4", "fortran_order": False, "shape": (1,)},
    "negative": {"descr": "<f4", "fortran_order": False, "shape": (-1, -2)},
    "objects": {"descr": "|O", "fortran_order": False, "shape": (1,)},
    "columns first": {"descr": "<f4", "fortran_order": True, "shape": (2,)},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_an_array_is_no_larger_than_its_bytes(claim):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, CLAIMS[claim])
    bundle = Bundle(Bundle.parse(RAW).manifest, b"", {"x/a.npy": out.getvalue() + b"\0" * 8})
    with pytest.raises(BundleError, match=r"x/a\.npy"):
        bundle.arrays("x")


@pytest.mark.parametrize(
    "raw", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x03\x00" + b"\0" * 60, b"[1]"]
)
def test_bytes_that_are_no_array_are_refused(raw):
    with pytest.raises(BundleError, match="not a plain array"):
        Bundle(Bundle.parse(RAW).manifest, b"", {"x/a.npy": raw}).arrays("x")


def test_a_manifest_member_is_needed():
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.assemble({"a.npy": b""})


BROKEN_MANIFESTS = {
    "another reason": lambda m: m["rules"][0].update(reason=64),
    "not a number": lambda m: m.update(counts={"x": float("nan")}),
    "no tolerance": lambda m: m.update(tolerance=10.0),
    "no version": lambda m: m.update(version=0),
}


@pytest.mark.parametrize("case", BROKEN_MANIFESTS)
def test_a_manifest_that_makes_no_sense_is_refused(case):
    document = json.loads(Bundle.parse(RAW).raw_manifest)
    BROKEN_MANIFESTS[case](document)
    with pytest.raises(BundleError, match=r"schema 1|not JSON"):
        Manifest.decode(json.dumps(document).encode())
