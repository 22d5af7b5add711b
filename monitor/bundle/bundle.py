"""A bundle in memory: verified bytes and the manifest that lists them."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from demur.monitor.bundle import archive, signature
from demur.monitor.bundle.archive import MANIFEST, SIGNATURE
from demur.monitor.bundle.manifest import Manifest, MemberEntry, RuleEntry, rules_digest
from demur.monitor.errors import BundleError, DigestMismatch

GRAPH = "monitor.onnx"


@dataclass(frozen=True, eq=False)
class Bundle:
    """Immutable. `digest` is the SHA-256 of the raw manifest, which lists the digest of every other member."""

    manifest: Manifest
    raw_manifest: bytes
    members: Mapping[str, bytes]
    signature: bytes | None = None

    @staticmethod
    def build(members: Mapping[str, bytes], **fields: Any) -> Bundle:
        """A bundle of these members; `fields` are the manifest's."""
        listed = {n: MemberEntry(sha256=_sha256(b), size=len(b)) for n, b in members.items()}
        rules = [r if isinstance(r, RuleEntry) else RuleEntry.model_validate(r) for r in fields.pop("rules")]
        manifest = Manifest(members=listed, **{**fields, "rules": rules, "rules_digest": rules_digest(rules)})
        return Bundle(manifest, manifest.encode(), dict(members))

    @staticmethod
    def load(path: str | Path, *, trusted: Sequence[Ed25519PublicKey] | None = None) -> Bundle:
        """Read a bundle file once and verify it; `trusted` keys make a signature required.

        Raises: BundleError, DigestMismatch, UnsupportedSchema.
        """
        try:
            return Bundle.parse(archive.read_file(Path(path)), trusted=trusted)
        except BundleError as error:
            raise type(error)(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error.__cause__

    @staticmethod
    def parse(raw: bytes, *, trusted: Sequence[Ed25519PublicKey] | None = None) -> Bundle:
        """As `load`, from bytes. Raises: as `load`."""
        return Bundle.assemble(archive.read(raw), trusted=trusted)

    @staticmethod
    def assemble(members: Mapping[str, bytes], *, trusted: Sequence[Ed25519PublicKey] | None = None) -> Bundle:
        """A verified bundle from its members, as read from a file or an unpacked folder.

        Raises: BundleError, DigestMismatch, UnsupportedSchema.
        """
        rest = dict(members)
        raw = rest.pop(MANIFEST, None)
        if raw is None:
            raise BundleError(f"{MANIFEST} is missing; expected the members of a bundle written by `demur fit`")
        signed = rest.pop(SIGNATURE, None)
        if trusted is not None:
            signature.verify(raw, signed, trusted)
        manifest = Manifest.decode(raw)
        _verify_members(manifest, rest)
        return Bundle(manifest, raw, rest, signed)

    @property
    def digest(self) -> str:
        """SHA-256 of the raw manifest, lower-case hex: the bundle's identity."""
        return _sha256(self.raw_manifest)

    @property
    def graph(self) -> bytes:
        """`monitor.onnx`. Raises: BundleError when there is none."""
        try:
            return self.members[GRAPH]
        except KeyError:
            raise BundleError(f"{GRAPH} is missing; build the bundle again") from None

    def encode(self) -> bytes:
        """The bytes of the bundle file."""
        signed = {} if self.signature is None else {SIGNATURE: self.signature}
        return archive.write({MANIFEST: self.raw_manifest, **signed, **self.members})

    def save(self, path: str | Path) -> None:
        """Install the bundle file: write beside, fsync, rename. Raises: BundleError when it cannot be written."""
        archive.install(Path(path), self.encode())

    def sign(self, key: Ed25519PrivateKey) -> Bundle:
        """The same bundle, signed."""
        return Bundle(self.manifest, self.raw_manifest, self.members, signature.sign(self.raw_manifest, key))

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The `.npy` members under `prefix/`, by name without it. Raises: BundleError for one that is no plain array."""
        found = [n for n in self.members if n.startswith(f"{prefix}/") and n.endswith(".npy")]
        return {n[len(prefix) + 1 : -4]: _array(n, self.members[n]) for n in found}


def npy(array: NDArray[Any]) -> bytes:
    """An array as a `.npy` member."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _array(name: str, raw: bytes) -> NDArray[Any]:
    """Never by `read_array`: it allocates what the header claims before it looks at the size of the data."""
    try:
        file = io.BytesIO(raw)
        version = np.lib.format.read_magic(file)
        shape, column_major, dtype = np.lib.format.read_array_header_1_0(file)
        data = raw[file.tell() :]
    except (ValueError, EOFError, TypeError, RecursionError, MemoryError) as error:
        raise BundleError(f"{name}: not a plain array ({error}); build the bundle again") from error
    plain = version == (1, 0) and dtype.kind in "biuf" and not column_major and min(shape, default=0) >= 0
    if not plain or math.prod(shape) * dtype.itemsize != len(data):
        raise BundleError(
            f"{name}: expected a row-major array of numbers, got a header of {shape} {dtype} before {len(data)} bytes; "
            "build the bundle again"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _verify_members(manifest: Manifest, members: Mapping[str, bytes]) -> None:
    if set(members) != set(manifest.members):
        odd = sorted(set(members) ^ set(manifest.members))
        raise DigestMismatch(
            f"members and manifest disagree about {', '.join(odd)}; the bundle was changed after it was built"
        )
    for name, entry in manifest.members.items():
        if len(members[name]) != entry.size or _sha256(members[name]) != entry.sha256:
            raise DigestMismatch(f"{name}: SHA-256 differs from the manifest's; the bundle was changed or damaged")
