"""What a check found about the tables a monitor is fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation: an `error` forbids fitting, a `warning` is printed. `code` is stable, `message` is for people."""

    level: Literal["error", "warning"]
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.code}: {self.message}"


class ContractViolation(TableError):
    """Tables that break the contract between model and monitor. `findings` holds every error and warning."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        errors = [finding for finding in findings if finding.level == "error"]
        lines = "\n".join(f"  {finding.code}: {finding.message}" for finding in errors)
        super().__init__(f"the tables cannot be used, {len(errors)} reason{'s' if len(errors) > 1 else ''}:\n{lines}")
        self.findings = tuple(findings)


def error(code: str, message: str) -> Finding:
    return Finding("error", code, message)


def warning(code: str, message: str) -> Finding:
    return Finding("warning", code, message)


def listed(numbers: NDArray[np.integer] | Iterable[int]) -> str:
    """The first few numbers: `3, 17, 21, ...`."""
    values = [int(number) for number in numbers]
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
