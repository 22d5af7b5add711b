"""Server certificates, re-read when they are renewed."""

from __future__ import annotations

import logging
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
