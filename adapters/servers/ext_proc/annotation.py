"""A verdict as `demur-*` headers of the answer."""

from __future__ import annotations

import functools
import operator

from demur.adapters.servers.oip.annotation import action, kinds, verdict
from demur.monitor.verdicts import Verdicts


def headers(verdicts: Verdicts) -> dict[str, str]:
    """Every name is always there, so that an upstream cannot forge one."""
    units = (verdicts,) if verdicts.groups is None else (verdicts, verdicts.groups)
    bits = functools.reduce(operator.or_, (int(b) for u in units for b in u.reason_bits), 0)
    return {
        "demur-verdict": verdict(verdicts),
        "demur-action": action(verdicts).name,
        "demur-mode": verdicts.mode,
        "demur-reasons": ",".join(kinds(bits)),
        "demur-cause": verdicts.cause if bits else "",
        "demur-monitor": verdicts.policy.monitor,
        "demur-bundle": verdicts.policy.bundle,
        "demur-sequence": str(verdicts.sequence),
        "demur-audited": "true" if verdicts.audited else "false",
    }
