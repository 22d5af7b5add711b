"""From a YAML file and the environment to a checked configuration, with errors that say where."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from demur.monitor.config.fault import faults
from demur.monitor.errors import ConfigurationError

PREFIX = "DEMUR_"
RESERVED = frozenset({"DEMUR_DATA", "DEMUR_CONFIG"})
# What Kubernetes sets in every pod beside a Service whose name starts with `demur`.
SERVICE_LINK = re.compile(r"^DEMUR_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")
LARGEST_BYTES = 4 << 20
MERGE, BOOLEAN, TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "bool", "str"))


class _Loader(yaml.SafeLoader):
    """Plain data only, and no key twice: the first of two `rules` would be dropped in silence.

    Keys are words: YAML 1.1 would read the key `on` as true.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if key.tag == BOOLEAN:
                key.tag = TEXT
        keys = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode) and k.tag != MERGE]
        twice = sorted(k for k, n in Counter(keys).items() if n > 1)
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep=deep)


class Section(BaseModel):
    """Part of a configuration: immutable, and an unknown key is an error, because a typo in a policy is a safety fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=Section)


def load(model: type[M], path: str | Path | None, environment: Mapping[str, str] | None = None) -> M:
    """The configuration in `path`, with overrides from the environment.

    `DEMUR_LIMITS__ROWS=512` sets `limits.rows`; values are YAML. `path` None starts from an empty document.
    Raises: ConfigurationError naming the file, the key, what was expected and what came.
    """
    document = {} if path is None else read_yaml(Path(path))
    overrides = override(document, os.environ if environment is None else environment)
    return parse(model, document, f"{path or 'defaults'}{' and environment' if overrides else ''}")


def parse(model: type[M], document: Mapping[str, Any], where: str) -> M:
    """A checked model of `document`. Raises: ConfigurationError listing every fault."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = (f"  {fault}" for fault in faults(model, document, error.errors(include_url=False)))
        raise ConfigurationError("\n".join([f"{where} cannot be used:", *found])) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises: ConfigurationError for a missing, oversized or malformed file, or one that is not a mapping."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    if len(raw) > LARGEST_BYTES:
        raise ConfigurationError(f"{path}: larger than {LARGEST_BYTES} bytes; this does not look like a configuration")
    try:
        document = yaml.load(raw.decode(), _Loader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"{path}: expected a mapping of keys at the top, got {type(document).__name__}; write `key: value` lines"
        )
    return document


def override(document: dict[str, Any], environment: Mapping[str, str]) -> int:
    """Set keys from `DEMUR_A__B=value` in place; returns how many. Raises: ConfigurationError naming the variable."""
    names = sorted(n for n in environment if n.startswith(PREFIX) and n not in RESERVED and not SERVICE_LINK.match(n))
    for name in names:
        *parents, last = name[len(PREFIX) :].lower().split("__")
        place = document
        for key in parents:
            if place.get(key) is None:  # absent, or a section left empty
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                raise ConfigurationError(
                    f"{name}: {key} is not a section, so nothing under it can be set; set {key} as a whole"
                )
        try:
            place[last] = yaml.load(environment[name], _Loader)  # noqa: S506  a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"{name}: its value is not valid YAML ({type(error).__name__}); quote it"
            ) from error
    return len(names)
