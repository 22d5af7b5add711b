"""What a server's configuration takes for granted: bundles that may be served, free addresses, a log that can be opened."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from demur.monitor.errors import AuditUnavailable, ConfigurationError

if TYPE_CHECKING:
    from demur.monitor.bundle.succession import LastServed
    from demur.monitor.config.server import AuditConfig, ServedMonitorConfig, ServerConfig
    from demur.monitor.engine import Engine

Check: TypeAlias = tuple[str, str, str]  # good | note | bad, what, what to do


def monitor(config: ServedMonitorConfig, recorded: Mapping[str, LastServed]) -> Generator[Check, None, Engine | None]:
    """Whether `demur serve` would serve this bundle; returns its engine."""
    from demur.monitor.bundle import succession
    from demur.monitor.engine import Engine
    from demur.monitor.loaded import Loaded
    from demur.monitor.service.reload import open_bundle

    try:
        loaded = Loaded.open(open_bundle(config), providers=config.providers)
        last = succession.latest(config.bundle, config.name, loaded.bundle.manifest.monitor, recorded)
        if last is not None:
            succession.check(config.bundle, last, loaded.bundle)
    except Exception as error:
        yield "bad", f"monitor {config.name}: {error}", ""
        return None
    told = f"sha256:{loaded.bundle.digest[:12]}…, version {loaded.manifest.version}, self-test passed"
    yield "good", f"monitor {config.name}: {told}", ""
    return Engine(loaded)


def addresses(config: ServerConfig) -> Iterator[Check]:
    """Whether each address can be listened on; nothing is said of those that can."""
    proxy, ext_proc = config.proxy, config.ext_proc
    named = [("listen", a) for a in config.listen]
    named += [("health_listen", config.health_listen or ""), ("metrics_listen", config.metrics_listen or "")]
    named += [] if proxy is None else [("proxy.listen", proxy.listen)]
    named += [] if proxy is None or proxy.rest is None else [("proxy.rest.listen", proxy.rest.listen)]
    named += [] if ext_proc is None else [("ext_proc.listen", ext_proc.listen)]
    taken: dict[str, str] = {}
    for key, address in named:
        if not address or address.endswith(":0"):
            continue
        if address in taken:
            yield "bad", f"{key}: {address} is that of {taken[address]} too", "give each its own"
        else:
            yield from _free(key, address)
        taken[address] = key


def _free(key: str, address: str) -> Iterator[Check]:
    try:
        if address.startswith("unix:"):
            _bind_socket(Path(address.removeprefix("unix:")))
        else:
            _bind_port(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield "note", f"{key}: {address} is in use now", "unless by this server, stop what listens there"
        else:
            yield "bad", f"{key}: {address} cannot be listened on ({error.strerror or error})", f"mend {key}"
    except (ConfigurationError, UnicodeError) as error:
        yield "bad", f"{key}: {error}", ""


def _bind_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)


def _bind_socket(path: Path) -> None:
    from demur.monitor.service.listening import refuse_live, refuse_long

    refuse_long(path)
    if path.is_socket():
        try:
            refuse_live(path)
        except ConfigurationError:
            raise OSError(errno.EADDRINUSE, "in use") from None
    refuse_live(path)
    if not os.access(path.parent, os.W_OK):
        raise OSError(errno.EACCES, "its folder is not there, or cannot be written")


def log(config: AuditConfig) -> Generator[Check, None, dict[str, LastServed]]:
    """Whether `demur serve` would open the audit log: key and journal are read as it reads them, and nothing is written.
    Returns what the log says was served last.
    """
    from demur.monitor.audit.keys import key_name, load_or_make
    from demur.monitor.audit.log import PUBLIC_KEY
    from demur.monitor.audit.restore import restore
    from demur.monitor.audit.storage import DiskStorage
    from demur.monitor.recorder import last_served

    directory = config.directory
    key, public = config.key_file or directory / "audit.key", directory / PUBLIC_KEY
    try:
        if not key.exists() and not public.exists():
            yield from _writable(directory)
            return {}
        signer = load_or_make(key, key_name(config.origin), begun=public)
        if public.exists() and public.read_bytes() != f"{signer.verifier}\n".encode():
            yield "bad", f"audit log {directory}: was begun with another key than {key}", "put that key back"
            return {}
        found = restore(directory, DiskStorage(), signer.verifier, config.origin, mend=False)
    except (AuditUnavailable, ValueError, OSError) as error:
        yield "bad", str(error), ""
        return {}
    yield "good", f"audit log {directory}: {found.tree.size} records", ""
    return last_served(found.bundles)


def _writable(directory: Path) -> Iterator[Check]:
    place = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if place.is_dir() and os.access(place, os.W_OK):
        yield "good", f"audit log {directory}: will be begun", ""
    else:
        yield "bad", f"audit log {directory}: {place} cannot be written", "mend audit.directory"
