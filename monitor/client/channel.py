"""A connection to a sidecar, and what every call carries."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc

from demur.monitor.errors import ConfigurationError

LOG = logging.getLogger("demur.client")
MESSAGE_BYTES = 64 << 20
NEAR = ("unix:", "localhost", "127.", "[::1]")
OPTIONS = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 50),  # the default of a second is longer than a call may take
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def connect(
    address: str,
    *,
    tls_ca: str | Path | None = None,
    client_cert: str | Path | None = None,
    client_key: str | Path | None = None,
) -> grpc.Channel:
    """A channel: plain, TLS with `tls_ca`, mutual TLS with certificate and key. Connects on first use.

    Raises: ConfigurationError for files that cannot be read, or a certificate without its key.
    """
    if (client_cert is None) != (client_key is None):
        raise ConfigurationError("client_cert and client_key belong together; give both or none")
    if tls_ca is None:
        if client_cert is not None:
            raise ConfigurationError("client_cert needs tls_ca: the authority that signed the server's certificate")
        return grpc.insecure_channel(address, OPTIONS)
    credentials = grpc.ssl_channel_credentials(_read(tls_ca), _read(client_key), _read(client_cert))
    return grpc.secure_channel(address, credentials, OPTIONS)


def authorization(address: str, token: str | None, *, encrypted: bool) -> tuple[tuple[str, str], ...]:
    """The metadata of the token, which is never logged."""
    if token is None:
        return ()
    if not encrypted and not address.startswith(NEAR):
        LOG.warning("the token travels unencrypted to %s; give tls_ca", address)
    return (("authorization", f"Bearer {token.strip()}"),)


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); give the path of a PEM file") from error
