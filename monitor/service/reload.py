"""Bundle files as they change: take what is good, keep the last good one otherwise, say why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from demur.monitor.bundle import Bundle, activation, signature, succession
from demur.monitor.bundle.succession import LastServed
from demur.monitor.config.server import ServedMonitorConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import BundleError, DemurError
from demur.monitor.event import BundleEvent
from demur.monitor.loaded import Loaded
from demur.monitor.service.observer import Observers
from demur.monitor.service.registry import Served

LOG = logging.getLogger("demur.service")
LONGEST_WAIT_SECONDS = 60.0
LONGEST_ERROR = 2000


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does: where links lead (a ConfigMap swaps its `..data` link), inode, size, time; likewise of the activation file."""

    target: str
    file: tuple[int, int, int]
    activation: tuple[int, int, int]

    @staticmethod
    def of(path: Path) -> Stamp:
        return Stamp(str(path.resolve()), _stat(path), _stat(activation.path_for(path)))


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, -1, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def open_bundle(config: ServedMonitorConfig) -> Bundle:
    """The verified bundle of one monitor. Listed public keys make a signature required, with `require_signature` or without.

    Raises: BundleError, ConfigurationError.
    """
    trusted = [signature.load_public(path) for path in config.public_keys]
    return Bundle.load(config.bundle, trusted=trusted or None)


class BundleFile:
    """The bundle file of one served monitor.

    recorded: the bundle that the audit log names as served last under each name; None where there is no log.
    """

    def __init__(
        self,
        served: Served,
        build: Callable[[Served, Loaded], Engine],
        observers: Observers,
        recorded: Mapping[str, LastServed] | None = None,
    ) -> None:
        self._served, self._build, self._observers = served, build, observers
        self._recorded = recorded
        self._tried: Stamp | None = None
        self._wait, self._retry_at = 0.0, 0.0
        self._unnoted: Bundle | None = None  # served, and not noted yet

    def look(self, *, force: bool = False) -> bool:
        """Load the file if it changed, or if it failed a while ago; True when another bundle is served now."""
        if self._unnoted is not None:  # the disk may have room again
            self._remember(self._unnoted)
        stamp = Stamp.of(self._served.config.bundle)
        due = bool(self._wait) and monotonic() >= self._retry_at
        if stamp == self._tried and not due and not force:
            return False
        fresh, self._tried = stamp != self._tried, stamp
        try:
            return self._take(open_bundle(self._served.config))
        except DemurError as error:
            self._refused(error, fresh=fresh)
        except Exception as error:
            LOG.exception("monitor %s: loading %s failed", self._served.name, self._served.config.bundle)
            self._refused(BundleError(f"loading failed: {error!r}"), fresh=fresh)
        return False

    def _take(self, bundle: Bundle) -> bool:
        served, config = self._served, self._served.config
        active = served.engine.loaded if served.engine is not None else None
        if active is not None and active.bundle.digest == bundle.digest:
            self._remember(bundle)
            self._settled()
            return False
        last = self._last(bundle)
        leave = "" if last is None else succession.check(config.bundle, last, bundle)
        loaded = Loaded.open(bundle, name=served.name, providers=config.providers, threads=config.threads)
        self._remember(bundle)
        if served.engine is None:
            served.engine = self._build(served, loaded)
        else:
            served.engine.activate(loaded)
        self._settled()
        self._tell(bundle, leave)
        return True

    def _last(self, bundle: Bundle) -> LastServed | None:
        """What is served; before anything is, what the note beside the bundle or the log names."""
        served = self._served
        if served.engine is not None:
            return LastServed.of(served.name, served.engine.loaded.bundle)
        return succession.latest(served.config.bundle, served.name, bundle.manifest.monitor, self._recorded)

    def _remember(self, bundle: Bundle) -> None:
        before, self._unnoted = self._unnoted, None
        try:
            succession.remember(self._served.config.bundle, LastServed.of(self._served.name, bundle))
        except (BundleError, OSError) as error:
            self._unnoted = bundle
            if before is None and self._recorded is None:
                LOG.warning("monitor %s: an older bundle would be taken after a restart, as neither a file nor an audit log "
                            "says which was served last: %s", self._served.name, error)  # fmt: skip
            elif before is None:
                LOG.info(
                    "monitor %s: the audit log alone says which bundle was served last: %s", self._served.name, error
                )

    def _settled(self) -> None:
        self._served.error = ""
        self._wait = 0.0

    def _tell(self, bundle: Bundle, leave: str) -> None:
        version = bundle.manifest.version
        LOG.info("monitor %s: serving version %d, %s %s", self._served.name, version, bundle.digest, leave)
        self._observers.bundle(
            BundleEvent(
                self._served.name, bundle.digest, version, accepted=True, cause=leave, built_for=bundle.manifest.monitor
            )
        )

    def _refused(self, error: DemurError, *, fresh: bool) -> None:
        message = str(error)[:LONGEST_ERROR]
        self._wait = 1.0 if fresh else min(LONGEST_WAIT_SECONDS, max(1.0, self._wait * 2))
        self._retry_at = monotonic() + self._wait
        if not fresh and message == self._served.error:
            return
        self._served.error = message
        kept = "keeping the last good bundle" if self._served.engine is not None else "no bundle to serve"
        LOG.error("monitor %s: %s; %s", self._served.name, message, kept)
        self._observers.bundle(BundleEvent(self._served.name, "", 0, accepted=False, cause=message))
