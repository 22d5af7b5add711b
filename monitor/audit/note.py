"""Signed notes and log checkpoints. Pure: bytes in, bytes out.

Source: C2SP signed-note v1.0.0 (Ed25519, signature type 0x01) and C2SP tlog-checkpoint. Signatures are verified over the
raw bytes that were read, and base64 must be spelled the one way an encoder would spell it: no bit is free.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
PRIVATE = "PRIVATE+KEY+"  # what the text of a signing key begins with
SIGNATURES = 100
NOTE_BYTES = 1 << 20
_DASH = "— ".encode()
_SIZE = re.compile(rb"0|[1-9][0-9]{0,18}")


class InvalidNote(ValueError):
    """A note, a key or a checkpoint that is malformed, or that no trusted key has signed."""


@dataclass(frozen=True)
class Verifier:
    """A public key with the name it signs under."""

    name: str
    public: bytes  # 32 bytes
    key_id: bytes  # 4 bytes

    @classmethod
    def make(cls, name: str, public: bytes) -> Verifier:
        """Raises: InvalidNote for a name with spaces or plus, or a key that is not 32 bytes."""
        if len(public) != 32:
            raise InvalidNote(f"note key {name}: expected 32 bytes, got {len(public)}")
        return cls(checked_name(name), public, key_id(name, public))

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read `name+id+base64`. Raises: InvalidNote unless every character is as an encoder would write it."""
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise InvalidNote("note key: expected name+id+key; use the .pub file written with the signing key")
        raw = _unbase64(parts[2].encode("utf-8", "replace"), "note key")
        if raw[:1] != ED25519:
            raise InvalidNote(f"note key {parts[0]}: expected an Ed25519 key (type 01), got type {raw[:1].hex()}")
        made = cls.make(parts[0], raw[1:])
        if made.key_id.hex() != parts[1]:
            raise InvalidNote(f"note key {parts[0]}: its id should be {made.key_id.hex()}, got {parts[1][:16]}")
        return made

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    def accepts(self, text: bytes, signature: bytes) -> bool:
        """Whether this key made this signature over exactly these bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """A signing key. The seed is never shown: not by `repr`, not in errors."""

    name: str
    _seed: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read `PRIVATE+KEY+name+id+base64`. Raises: InvalidNote, without the key's material in the message."""
        parts = text.split("+", 4)
        if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:
            raise InvalidNote("signing key: expected PRIVATE+KEY+name+id+key")
        raw = _unbase64(parts[4].encode("utf-8", "replace"), "signing key")
        if raw[:1] != ED25519 or len(raw) != 33:
            raise InvalidNote("signing key: expected an Ed25519 key")
        signer = cls(checked_name(parts[2]), raw[1:])
        if signer.verifier.key_id.hex() != parts[3]:
            raise InvalidNote("signing key: the id does not belong to the key")
        return signer

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier.make(
            self.name, Ed25519PrivateKey.from_private_bytes(self._seed).public_key().public_bytes_raw()
        )

    def secret(self) -> str:
        """The text of the key file; `Signer.parse` reads it."""
        encoded = base64.b64encode(ED25519 + self._seed).decode()
        return f"{PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{encoded}"

    def sign(self, text: bytes) -> bytes:
        """The note: `text` (which must end in a newline), a blank line, one signature line."""
        if not text.endswith(b"\n"):
            raise InvalidNote("note: the text must end with a newline")
        signature = Ed25519PrivateKey.from_private_bytes(self._seed).sign(text)
        encoded = base64.b64encode(self.verifier.key_id + signature)
        return text + b"\n" + _DASH + self.name.encode() + b" " + encoded + b"\n"


@dataclass(frozen=True)
class Checkpoint:
    """A log's head: `size` leaves under `root`."""

    origin: str
    size: int
    root: bytes

    def text(self) -> bytes:
        """The note text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    @classmethod
    def parse(cls, text: bytes) -> Checkpoint:
        """Read a note text. Raises: InvalidNote. Extension lines are refused: nothing in a log could vouch for them."""
        lines = text.split(b"\n")
        if len(lines) != 4 or lines[3] or not lines[0]:
            raise InvalidNote("checkpoint: expected three lines: origin, size, root hash")
        if not _SIZE.fullmatch(lines[1]):
            raise InvalidNote(f"checkpoint: expected a decimal size, got {lines[1][:24]!r}")
        hashed = _unbase64(lines[2], "checkpoint root")
        if len(hashed) != 32:
            raise InvalidNote(f"checkpoint: expected a root hash of 32 bytes, got {len(hashed)}")
        return cls(lines[0].decode(), int(lines[1]), hashed)


def open_checkpoint(note: bytes, verifiers: Sequence[Verifier]) -> Checkpoint:
    """The checkpoint in a note that at least one of these keys has signed. Raises: InvalidNote."""
    return Checkpoint.parse(open_note(note, verifiers))


def open_note(note: bytes, verifiers: Sequence[Verifier]) -> bytes:
    """The text of a note signed by at least one known key; signatures by unknown keys are ignored.

    Raises: InvalidNote when it is malformed, when no known key signed it, or when a known key's signature is wrong.
    """
    text, lines = _parts(note)
    known = {(v.name, v.key_id): v for v in verifiers}
    signed = False
    for line in lines:
        name, signature = _signature(line)
        verifier = known.get((name, signature[:4]))
        if verifier is None:
            continue
        if not verifier.accepts(text, signature[4:]):
            raise InvalidNote(f"note: the signature of {name}+{verifier.key_id.hex()} does not match the text")
        signed = True
    if not signed:
        names = ", ".join(f"{v.name}+{v.key_id.hex()}" for v in verifiers) or "no keys"
        raise InvalidNote(f"note: not signed by a trusted key ({names})")
    return text


def _parts(note: bytes) -> tuple[bytes, list[bytes]]:
    if len(note) > NOTE_BYTES:
        raise InvalidNote(f"note: expected at most {NOTE_BYTES} bytes, got {len(note)}")
    try:
        note.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidNote("note: not valid UTF-8") from None
    if any(byte < 0x20 and byte != 0x0A for byte in note):
        raise InvalidNote("note: holds control characters")
    text, blank, signatures = note.rpartition(b"\n\n")
    if not blank or not signatures.endswith(b"\n"):
        raise InvalidNote("note: expected a text, an empty line and signature lines")
    lines = signatures[:-1].split(b"\n")
    if len(lines) > SIGNATURES:
        raise InvalidNote(f"note: expected at most {SIGNATURES} signatures, got {len(lines)}")
    return text + b"\n", lines


def _signature(line: bytes) -> tuple[str, bytes]:
    if not line.startswith(_DASH):
        raise InvalidNote("note: a signature line must begin with an em dash and a space")
    name, space, encoded = line[len(_DASH) :].partition(b" ")
    if not space:
        raise InvalidNote("note: a signature line has a name and a signature")
    signature = _unbase64(encoded, "note signature")
    if len(signature) < 5:
        raise InvalidNote("note: a signature is too short")
    return checked_name(name.decode()), signature


def key_id(name: str, public: bytes) -> bytes:
    """SHA-256(name || 0x0A || 0x01 || public key), its first four bytes."""
    return sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def checked_name(name: str) -> str:
    """A key's name. Raises: InvalidNote when it is empty or holds spaces, plus or control characters."""
    if not name or "+" in name or any(c.isspace() or ord(c) < 0x20 for c in name):
        raise InvalidNote(f"note key: expected a name without spaces or plus, got {name[:64]!r}")
    return name


def _unbase64(encoded: bytes, what: str) -> bytes:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidNote(f"{what}: not base64") from None
    if base64.b64encode(raw) != encoded:  # the decoder ignores the unused bits of the last character
        raise InvalidNote(f"{what}: not the one base64 spelling of its bytes")
    return raw
