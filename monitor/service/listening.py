"""Addresses: TCP ports and Unix sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import grpc

from demur.monitor.errors import ConfigurationError

UNIX = "unix:"
LONGEST_SOCKET_PATH = 107


def bind(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None = None, *, mode: int = 0o600
) -> str:
    """Bind one address; returns it with the port that was given for port 0.

    Unix sockets carry no TLS: `mode` decides who may connect. Raises: ConfigurationError.
    """
    if address.startswith(UNIX):
        return _bind_unix(server, Path(address.removeprefix(UNIX)), mode)
    try:
        port = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise ConfigurationError(f"{address}: cannot be listened on ({error}); is another server there?") from error
    return f"{address.rpartition(':')[0]}:{port}"


def _bind_unix(server: grpc.Server, path: Path, mode: int) -> str:
    refuse_long(path)
    refuse_live(path)
    before = os.umask(0o777 & ~mode)  # the socket must not be open to others even for a moment
    try:
        server.add_insecure_port(f"{UNIX}{path}")
    except RuntimeError as error:
        raise ConfigurationError(f"unix:{path}: cannot be listened on ({error}); does its folder exist?") from error
    finally:
        os.umask(before)
    return f"{UNIX}{path}"


def refuse_long(path: Path) -> None:
    """Raises: ConfigurationError for a path that no socket can have."""
    if len(str(path)) > LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            f"unix:{path}: a socket's path has at most {LONGEST_SOCKET_PATH} bytes; choose a shorter one"
        )


def refuse_live(path: Path) -> None:
    """Because gRPC replaces whatever socket is there, even one that another server answers on. Raises: ConfigurationError."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigurationError(f"unix:{path}: something that is not a socket is there; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise ConfigurationError(f"unix:{path}: another server answers there; stop it first")
