"""demur: a runtime safety monitor for deployed models.

`fit` builds a bundle from a policy and data, `evaluate` judges it, `Monitor` assesses in process, `Client` asks a sidecar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demur.monitor.bundle import Bundle
    from demur.monitor.client.client import Client
    from demur.monitor.engine import Conduct
    from demur.monitor.errors import DemurError
    from demur.monitor.evaluate import Evaluation, evaluate
    from demur.monitor.fit.pipeline import calibrate, fit
    from demur.monitor.monitor import Monitor
    from demur.monitor.verdicts import Action, Verdicts

__all__ = [
    "Action",
    "Bundle",
    "Client",
    "Conduct",
    "DemurError",
    "Evaluation",
    "Monitor",
    "Verdicts",
    "calibrate",
    "evaluate",
    "fit",
]
__version__ = "0.1.0"

# Imported on first use: `import demur` stays light, and a process that only assesses never loads a transport.
_HOMES = {
    "Action": "demur.monitor.verdicts",
    "Bundle": "demur.monitor.bundle",
    "Client": "demur.monitor.client.client",
    "Conduct": "demur.monitor.engine",
    "DemurError": "demur.monitor.errors",
    "Evaluation": "demur.monitor.evaluate",
    "Monitor": "demur.monitor.monitor",
    "Verdicts": "demur.monitor.verdicts",
    "calibrate": "demur.monitor.fit.pipeline",
    "evaluate": "demur.monitor.evaluate",
    "fit": "demur.monitor.fit.pipeline",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'demur' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
