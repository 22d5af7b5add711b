"""Which bundle may follow which. The one served last is noted beside its file, so that a restart refuses what a reload refuses.

Whoever can write the bundle can write this note: where there is an audit log, what that one says counts too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from demur.monitor.bundle import activation
from demur.monitor.bundle.archive import install
from demur.monitor.bundle.bundle import Bundle
from demur.monitor.config.document import Section
from demur.monitor.errors import BundleError, RollbackRefused

LOG = logging.getLogger("demur.bundle")
SUFFIX = ".served"
LARGEST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class LastServed:
    """The version served last under a name; `monitor` is its bundle's own name for itself, "" when that is not known."""

    name: str
    version: int
    monitor: str = ""

    @staticmethod
    def of(name: str, bundle: Bundle) -> LastServed:
        """The version of `bundle`, served under `name`."""
        return LastServed(name, bundle.manifest.version, bundle.manifest.monitor)


class Note(Section):
    """The file `digits.demur.served`."""

    schema_version: Literal[1] = 1
    name: str = Field(max_length=256)
    version: int = Field(ge=1)
    monitor: str = Field(max_length=256)


def path_for(bundle: str | Path) -> Path:
    """`digits.demur.served` beside `digits.demur`, as the server's configuration names it (links are not followed)."""
    path = Path(bundle)
    return path.with_name(path.name + SUFFIX)


def remember(path: str | Path, served: LastServed) -> None:
    """Note beside the bundle file at `path` what is served from it now. Raises: BundleError when it cannot be written."""
    note = Note(name=served.name, version=served.version, monitor=served.monitor)
    raw = (json.dumps(note.model_dump(), indent=2, sort_keys=True) + "\n").encode()
    place = path_for(path)
    if not place.is_file() or place.read_bytes() != raw:
        install(place, raw)


def read(path: str | Path) -> LastServed | None:
    """What was served last from the bundle file at `path`, or None. Raises: BundleError for a file that does not say so."""
    place = path_for(path)
    try:
        if place.stat().st_size > LARGEST_BYTES:
            raise BundleError(f"{place}: larger than {LARGEST_BYTES} bytes; a server did not write this, remove it")
        note = Note.model_validate(json.loads(place.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        raise BundleError(
            f"{place}: expected the version that was served last, as a server notes it ({error}); look at the bundle "
            "beside it, and remove this file if that one is to be served"
        ) from error
    return LastServed(note.name, note.version, note.monitor)


def installed(path: Path) -> LastServed | None:
    """What is to be followed at `path`: what a server noted there, else the bundle that is there; None for neither.

    Raises: BundleError for a note that is none.
    """
    noted = read(path)
    if noted is not None:
        return noted
    try:
        return LastServed.of("", Bundle.load(path))
    except BundleError:
        return None


def latest(path: Path, name: str, monitor: str, recorded: Mapping[str, LastServed] | None) -> LastServed | None:
    """What was served last: the higher version of what the note beside the file says of `name`, or of a bundle of the same
    `monitor` under another name, and of what an audit log (`recorded`, by name) says of `name`.

    Raises: BundleError for a note that is none, and no such record.
    """
    logged = (recorded or {}).get(name)
    try:
        noted = read(path)
    except BundleError as error:
        if logged is None:
            raise
        LOG.warning("the audit log says what was served last; it is noted again: %s", error)
        noted = None
    if noted is not None and noted.name != name and noted.monitor != monitor:
        noted = None
    known = [last for last in (noted, logged) if last is not None]
    return max(known, key=lambda last: last.version, default=None)


def check(path: Path, last: LastServed, bundle: Bundle) -> str:
    """The activation that allows an older bundle, in words, or "" for one that needs none.

    Raises: BundleError for a bundle of another monitor, RollbackRefused for an older one without an activation.
    """
    refuse_other(path, last, bundle)
    now, then = bundle.manifest.version, last.version
    if now >= then:
        return ""
    allowed = activation.read(path)
    if allowed is None or allowed.digest != bundle.digest:
        raise RollbackRefused(
            f"{path}: version {now} is lower than version {then}, the last one served here; "
            f"to go back on purpose: `demur bundle activate BUNDLE {path} --allow-rollback`"
        )
    return f"rollback from version {then} to {now} allowed by {allowed.by or 'unnamed'} at {allowed.at}: {allowed.reason or 'no reason given'}"


def refuse_other(path: Path, last: LastServed, bundle: Bundle) -> None:
    """Raises: BundleError for the bundle of another monitor: clients would send it signals that it does not know."""
    if last.monitor not in ("", bundle.manifest.monitor):
        raise BundleError(
            f"{path}: expected a bundle of the monitor {last.monitor}, got one of {bundle.manifest.monitor}; "
            "serve that one at a path and under a name of its own"
        )
