"""Bytes in, bytes out: the uncompressed zip around a bundle, always in the same order with the same timestamps."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from demur.monitor.errors import BundleError

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
LARGEST_BYTES = 4 << 30
LARGEST_MEMBERS = 1024
NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.@-]*(/[A-Za-z0-9_][A-Za-z0-9_.@-]*){0,2}\Z")


def write(members: Mapping[str, bytes]) -> bytes:
    """A zip of the members: manifest, signature, then the rest by name.

    Raises: BundleError for a name that `read` would refuse.
    """
    out = io.BytesIO()
    for name in members:
        _check_name(name)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members, key=_order):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, members[name])
    return out.getvalue()


def read(raw: bytes) -> dict[str, bytes]:
    """The members of a bundle file, from memory only.

    Raises: BundleError for anything but stored members with plain names whose sizes fit the file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            _check(entries, len(raw))
            return {e.filename: archive.read(e) for e in entries}
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        LookupError,
        struct.error,
    ) as error:
        raise BundleError(
            f"not a bundle file or damaged ({error}); copy it again, or write it again with `demur fit`"
        ) from error


def read_file(path: Path) -> bytes:
    """The whole file, read once; only these bytes are verified and used. Raises: BundleError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe has no end, or none yet
            raise BundleError(f"{path}: expected a bundle file, got something that is no plain file")
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); expected a bundle written by `demur fit`"
        ) from error
    if len(raw) > LARGEST_BYTES:
        raise BundleError(f"{path}: larger than {LARGEST_BYTES} bytes, the most a bundle may have; give a bundle file")
    return raw


def install(path: Path, raw: bytes) -> None:
    """Write beside, fsync, rename: a reader sees the old file or the new one, never half of one.

    Raises: BundleError when the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, raw)
    except OSError as error:
        raise BundleError(
            f"{path}: expected room and permission for {len(raw)} bytes, got {error.strerror or error}; "
            "no half-written file is left: free space or choose another folder, and write it again"
        ) from error


def _replace(path: Path, raw: bytes) -> None:
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _order(name: str) -> tuple[int, str]:
    return ({MANIFEST: 0, SIGNATURE: 1}.get(name, 2), name)


def _check_name(name: str) -> None:
    if not NAME.match(name):
        raise BundleError(
            f"member name {name!r} is not allowed in a bundle: expected letters, digits and _.@- in at most three parts"
        )


def _check(entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [e.filename for e in entries]
    if len(names) > LARGEST_MEMBERS or len(set(names)) != len(names) or MANIFEST not in names:
        raise BundleError(
            f"expected {MANIFEST} and members with different names, got {len(names)} entries; this is not a bundle"
        )
    for entry in entries:
        _check_name(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise BundleError(
                f"{entry.filename}: expected a stored, unencrypted member; pack it with `demur bundle pack`"
            )
    if sum(e.file_size for e in entries) > size:
        raise BundleError("members claim more bytes than the file has; the bundle is damaged")
