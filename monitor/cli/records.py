"""Records of the audit log as a person, or a program at the end of a pipe, reads them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from demur.monitor.cli.console import grid, out

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from demur.monitor.audit import Record

WIDEST = 60  # of a reason in a list on a terminal
LONGEST_LINE = 1 << 16


def table(records: list[Record]) -> None:
    """A line for each record; in a pipe whole ones, however long."""
    whole = _in_a_pipe()
    requests = any(r.request for r in records)
    heads = ["record", "time (UTC)", "kind", "monitor", "accepted", "reasons", *(["request"] if requests else [])]
    shown = grid(*heads, padding=(0, 1, 0, 0))
    for r in records:
        when = datetime.fromtimestamp(r.time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        reasons = ", ".join(f"{k} {n}" for k, n in sorted(r.reasons.items())) or r.cause or r.note
        told = [
            reasons if whole or len(reasons) <= WIDEST else f"{reasons[: WIDEST - 1]}…",
            *([r.request] if requests else []),
        ]
        accepted = f"{r.accepted} of {r.rows}" if r.rows else ""
        shown.add_row(str(r.sequence), when, r.kind, plain(r.monitor), accepted, *map(plain, told))
    _print(shown)


def _in_a_pipe() -> bool:
    """Whether a program reads what is printed, so that every record has one line, however long."""
    return not out().is_terminal and "COLUMNS" not in os.environ


def _print(shown: Table) -> None:
    from rich.console import Console

    Console(highlight=False, width=LONGEST_LINE if _in_a_pipe() else None).print(shown)


def plain(text: str) -> Text:
    """What a client or a server chose, as it is: no markup, and nothing that moves a terminal's cursor."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def rows(block: Any) -> None:
    """A line for each row of a verdict block: verdict, reasons, scores with p-values."""
    from demur.detectors.reason import Reason

    shown = grid("row", "verdict", "reasons", *(f"{c} (p)" for c in block.columns))
    for i, accept in enumerate(block.accept):
        values = (f"{s:.4g} ({p:.3g})" for s, p in zip(block.scores[i], block.p_values[i], strict=True))
        names = " ".join(str(k.name) for k in Reason(int(block.reasons[i])))
        shown.add_row(str(i), "ACCEPT" if accept else "ABSTAIN", names, *values)
    _print(shown)
