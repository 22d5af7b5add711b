"""An operator's explicit leave to go back to an older bundle: a small file beside the bundle, naming its exact digest.

Whoever can write the bundle can write this file: it prevents accidents and replays, and leaves a trace; it is not a signature.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from demur.monitor.bundle.archive import install
from demur.monitor.bundle.bundle import Bundle
from demur.monitor.config.document import Section
from demur.monitor.errors import BundleError

SUFFIX = ".activation"
LARGEST_BYTES = 64 << 10


class Activation(Section):
    """Who allowed which bundle, and why. `at` is UTC, ISO 8601."""

    schema_version: Literal[1] = 1
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    version: int = Field(ge=1)
    allow_rollback: Literal[True] = True
    by: str = Field("", max_length=256)
    reason: str = Field("", max_length=1024)
    at: str = Field("", max_length=64)


def path_for(bundle: str | Path) -> Path:
    """`digits.demur.activation` beside `digits.demur`, as the server's configuration names it (links are not followed)."""
    path = Path(bundle)
    return path.with_name(path.name + SUFFIX)


def allow(path: str | Path, bundle: Bundle, *, by: str = "", reason: str = "") -> Activation:
    """Write the activation file for `bundle` beside `path`; what `demur bundle activate --allow-rollback` does.

    Raises: BundleError when it cannot be written.
    """
    activation = Activation(
        digest=bundle.digest,
        version=bundle.manifest.version,
        by=by[:256],
        reason=reason[:1024],
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    install(path_for(path), (json.dumps(activation.model_dump(), indent=2, sort_keys=True) + "\n").encode())
    return activation


def read(path: str | Path) -> Activation | None:
    """The activation beside `path`, or None. Raises: BundleError for a file that is not one."""
    place = path_for(path)
    try:
        if place.stat().st_size > LARGEST_BYTES:
            raise BundleError(f"{place}: larger than {LARGEST_BYTES} bytes; this is no activation file")
        return Activation.model_validate(json.loads(place.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        raise BundleError(
            f"{place}: not an activation file ({error}); write it with `demur bundle activate --allow-rollback`"
        ) from error
