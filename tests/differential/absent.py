"""pytorch-ood imports torchvision for its models and data sets; its scores need none of it."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import ClassVar


class Absent(types.ModuleType):
    """A module that has whatever name is asked of it."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder:
    """Finds torchvision where there is none."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


def without_torchvision() -> None:
    """Make `import pytorch_ood` work."""
    if not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.append(Finder())
