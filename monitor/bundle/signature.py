"""Ed25519 over the raw manifest bytes. SHA-256 and Ed25519 only; nothing is canonicalised before signing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from demur.monitor.errors import BundleError, ConfigurationError, DigestMismatch

CONTEXT = b"demur bundle manifest v1\n"


def generate(path: Path) -> Path:
    """Write a private key (PEM, mode 0600) to `path` and its public key to `path.pub`; returns the latter.

    Raises: ConfigurationError when either file exists (keys are never overwritten) or cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    if public.exists():  # before the private key is written, so that none is left without its public half
        raise ConfigurationError(f"{public} exists and keys are never overwritten; choose another path")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for target, content, mode in ((path, pem, 0o600), (public, public_pem(key.public_key()), 0o644)):
        try:
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise ConfigurationError(f"{target} exists and keys are never overwritten; choose another path") from None
        except OSError as error:
            raise ConfigurationError(
                f"{target}: cannot be written ({error.strerror}); choose a folder that exists and is yours"
            ) from error
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    return public


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The public key in PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_private(path: Path) -> Ed25519PrivateKey:
    """Raises: ConfigurationError when the file is not an Ed25519 private key."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{path}: expected an Ed25519 private key in PEM, as `demur bundle keygen` writes it"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: expected an Ed25519 private key, got {type(key).__name__}")
    return key


def load_public(path: Path) -> Ed25519PublicKey:
    """Raises: ConfigurationError when the file is not an Ed25519 public key."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{path}: expected an Ed25519 public key in PEM (the .pub file of `demur bundle keygen`)"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path}: expected an Ed25519 public key, got {type(key).__name__}")
    return key


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The signature member: JSON with the public key and the signature, hex."""
    document = {
        "algorithm": "ed25519",
        "public_key": key.public_key().public_bytes_raw().hex(),
        "signature": key.sign(CONTEXT + manifest).hex(),
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def verify(manifest: bytes, signature: bytes | None, trusted: Sequence[Ed25519PublicKey]) -> None:
    """Check that a trusted key signed exactly these manifest bytes.

    The key named in the signature is a hint only: trust comes from `trusted`.
    Raises: BundleError when unsigned, DigestMismatch when no trusted key verifies.
    """
    if signature is None:
        raise BundleError("a signature is required and this bundle has none; sign it with `demur bundle sign`")
    try:
        value = bytes.fromhex(json.loads(signature)["signature"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"manifest.sig is malformed ({error}); sign the bundle again") from error
    for key in trusted:
        try:
            key.verify(value, CONTEXT + manifest)
        except InvalidSignature:
            continue
        return
    raise DigestMismatch(f"none of the {len(trusted)} trusted keys signed this manifest; do not serve it")
