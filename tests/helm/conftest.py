from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from .chart import Release, render
from .valuesets import VALUES


@pytest.fixture(scope="session")
def released() -> Callable[[str], Release]:
    """The rendering of a named value set, made once."""
    return functools.cache(lambda name: render(VALUES[name]))


@pytest.fixture(scope="session")
def validate() -> Callable[[dict[str, Any], str], str]:
    """Strict validation against one Kubernetes version; an unknown kind raises. Schemas are read once, not once an object."""
    import kubernetes_validate.utils as kv

    kv.schema_contents = functools.cache(kv.schema_contents)
    once = functools.cache(lambda text, version: kv.validate(json.loads(text), version, strict=True))
    return lambda document, version: once(json.dumps(document, sort_keys=True), version)
