"""Server certificates, re-read when they are renewed."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_certificates

from demur.monitor.config.server import TlsConfig
from demur.monitor.errors import ConfigurationError

LOG = logging.getLogger("demur.service")


def credentials(config: TlsConfig) -> grpc.ServerCredentials:
    """TLS, or mutual TLS with `client_ca`. Files are looked at on each handshake, so renewed certificates need no restart.

    Raises: ConfigurationError for files that cannot be used.
    """
    files = CertificateFiles(config)
    first = files.read()
    return grpc.dynamic_ssl_server_credentials(
        first, files.renewed, require_client_authentication=config.client_ca is not None
    )


def http_context(config: TlsConfig) -> ssl.SSLContext:
    """The same for a server that speaks HTTP: each handshake looks at the files, and uses what is good of them.

    Raises: ConfigurationError for files that cannot be used.
    """
    files = CertificateFiles(config)
    files.read()
    current = first = _context(config)

    def choose(connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        nonlocal current
        if files.renewed() is not None:
            try:
                current = _context(config)
            except ConfigurationError as error:  # changed again since it was looked at
                LOG.error("keeping the last good certificate: %s", error)  # noqa: TRY400
        connection.context = current

    first.sni_callback = choose  # called for clients that name no server too
    return first


def read_authorities(path: Path, name: str) -> bytes:
    """The PEM certificates of a file that the setting `name` gives. Raises: ConfigurationError."""
    try:
        content = path.read_bytes()
        load_pem_x509_certificates(content)
    except OSError as error:
        raise ConfigurationError(f"{name}: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigurationError(f"{name}: expected certificates in PEM form in {path} ({error})") from error
    return content


class CertificateFiles:
    """Certificate, key and client authorities of one server."""

    def __init__(self, config: TlsConfig) -> None:
        self.config = config
        self._seen: list[tuple[int, int]] = []

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Raises: ConfigurationError."""
        config = self.config
        self._seen = self._stamps()
        certificate, key = _read(config.certificate), _read(config.key)
        authorities = None if config.client_ca is None else _read(config.client_ca)
        _check(config, certificate, key, authorities)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authorities)

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What changed since, or None. Bad files keep the last good certificate."""
        if self._stamps() == self._seen:
            return None
        try:
            return self.read()
        except ConfigurationError as error:
            LOG.error("keeping the last good certificate: %s", error)  # noqa: TRY400  the message says it all
            return None

    def _stamps(self) -> list[tuple[int, int]]:
        paths = (self.config.certificate, self.config.key, self.config.client_ca)
        try:
            return [(p.stat().st_ino, p.stat().st_mtime_ns) for p in paths if p is not None]
        except OSError:
            return []


def _context(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.certificate, config.key)
        if config.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(config.client_ca)
            # A ticket would let a client in whose authority was taken away since. TLS 1.2's sessions cannot be turned off here.
            context.num_tickets = 0
    except OSError as error:  # SSLError is one too
        raise ConfigurationError(f"tls: certificate or key cannot be used ({error})") from error
    return context


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); give the path of a PEM file") from error


def _check(config: TlsConfig, certificate: bytes, key: bytes, authorities: bytes | None) -> None:
    try:
        public = load_pem_x509_certificate(certificate).public_key()
        private = serialization.load_pem_private_key(key, None).public_key()
        if authorities is not None:
            load_pem_x509_certificates(authorities)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"tls: {config.certificate} and its key must be unencrypted PEM: {error}") from error
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != private.public_bytes(*form):
        raise ConfigurationError(f"tls: {config.key} is not the key of {config.certificate}")
