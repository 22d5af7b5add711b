"""Checkpoint signing keys in files. The secret never reaches a log or an error message."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from demur.monitor.audit.note import PRIVATE, InvalidNote, Signer, Verifier

_OTHERS = 0o007


class UnusableKey(ValueError):
    """A key file that is missing, malformed, or open to everyone."""


def generate(name: str) -> Signer:
    """A fresh Ed25519 key that signs as `name`. Raises: InvalidNote for a name with spaces or plus."""
    signer = Signer(name, secrets.token_bytes(32))
    signer.verifier  # noqa: B018 - checks the name
    return signer


def write_key(path: Path, signer: Signer) -> Path:
    """Write the key (mode 0600) and its public half beside it (`.pub`, mode 0644), whose path is returned.

    Raises: FileExistsError: keys are never overwritten.
    """
    public = path.with_name(f"{path.name}.pub")
    path.parent.mkdir(parents=True, exist_ok=True)
    _create(path, signer.secret(), 0o600)
    public.unlink(missing_ok=True)
    _create(public, str(signer.verifier), 0o644)
    return public


def load_key(path: Path) -> Signer:
    """The signing key in a file. Raises: UnusableKey."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableKey(f"audit key {path}: {type(error).__name__}; make one with `demur audit keygen`") from None
    if mode & _OTHERS:
        raise UnusableKey(
            f"audit key {path}: everyone on this machine may use it (mode {mode & 0o777:o}); chmod 600 it"
        )
    try:
        return Signer.parse(text)
    except InvalidNote as error:
        raise UnusableKey(f"audit key {path}: {error}") from None


def load_or_make(path: Path, name: str, *, begun: Path | None = None) -> Signer:
    """The key in a file, made on first use. `begun`: where a log that was begun keeps its public key; for such a one no
    other key is made. Raises: UnusableKey, OSError.
    """
    if not path.exists():
        if begun is not None and begun.exists():
            raise UnusableKey(
                f"audit key {path}: is not there, and the log was begun with the key of {begun}; put that key back, or begin "
                "a new log in another folder"
            )
        write_key(path, generate(name))
    return load_key(path)


def load_public(path: Path) -> Verifier:
    """The public key in a `.pub` file. Raises: UnusableKey."""
    try:
        text = path.read_text("utf-8").strip()
        if text.startswith(PRIVATE):
            raise InvalidNote("this is the private key; give its public half, a .pub file")  # noqa: TRY301
        return Verifier.parse(text)
    except (OSError, UnicodeDecodeError, InvalidNote) as error:
        raise UnusableKey(f"audit public key {path}: {error}") from None


def key_name(origin: str) -> str:
    """The name under which a log of this origin signs: the origin, without what key names may not hold."""
    return "".join("-" if c == "+" or c.isspace() or not c.isprintable() else c for c in origin) or "demur"


def _create(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
