"""The file around a bundle: whatever is done to it, it is refused or still says the same."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from demur.monitor.bundle import MANIFEST, Bundle, archive
from demur.monitor.errors import BundleError, DigestMismatch, UnsupportedSchema

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


@pytest.mark.filterwarnings("ignore")
def test_every_flipped_byte_is_refused_or_changes_nothing():
    want = Bundle.parse(RAW)
    refused = 0
    for at in range(0, len(RAW), 7):
        damaged = bytearray(RAW)
        damaged[at] ^= 1 << (at % 8)
        try:
            found = Bundle.parse(bytes(damaged))
        except BundleError:
            refused += 1
            continue
        assert found.raw_manifest == want.raw_manifest
        assert dict(found.members) == dict(want.members)
    assert refused > len(RAW) // 7 * 0.9


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share):
    with pytest.raises(BundleError, match=r"damaged|not a bundle"):
        Bundle.parse(RAW[: int(len(RAW) * share)])


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/../b", "a//b", "a\\b", ".hidden", "a/b/c/d/e", "x" * 70 + "/\n"]
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
    with pytest.raises(BundleError, match="No space left.*free space"):
        Bundle.parse(RAW).save(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.demur"]


def test_a_file_that_is_not_there_says_which(tmp_path):
    with pytest.raises(BundleError, match=r"gone\.demur.*demur fit"):
        Bundle.load(tmp_path / "gone.demur")
