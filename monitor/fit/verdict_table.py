"""Verdicts as rows: for the terminal, as JSON lines, as Parquet or Arrow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from demur.detectors.reason import Reason
from demur.monitor.errors import DemurError
from demur.monitor.verdicts import Action, Verdicts, explain

BATCH_ROWS = 16_384
WRITABLE = (".jsonl", ".parquet", ".pq", ".arrow", ".feather")


class VerdictTableError(DemurError, ValueError):
    """Verdicts that cannot be written as asked."""


def verdict_rows(verdicts: Verdicts, ids: Sequence[Any] | None = None) -> Iterator[dict[str, Any]]:
    """One record for each unit, then one for each group when the policy has group rules.

    Scores and p-values are Python floats and may be NaN; `reasons` are kinds, `because` the sentences, `rules` the
    names of the rules that refused. `id` is the caller's id as a string, else the row number.
    Raises: VerdictTableError when there is not one id for each row.
    """
    if ids is not None and len(ids) != len(verdicts):
        raise VerdictTableError(f"ids: expected {len(verdicts)}, one for each row, got {len(ids)}")
    for number in range(len(verdicts)):
        yield _record(verdicts, number, "row", str(number if ids is None else ids[number]))
    groups = verdicts.groups
    if groups is not None:
        names = verdicts.group_ids if groups.group_ids is None else groups.group_ids
        for number in range(len(groups)):
            yield _record(groups, number, "group", str(number if names is None else names[number]))


def terminal_rows(verdicts: Verdicts, ids: Sequence[Any] | None = None, limit: int = 20) -> list[tuple[str, str, str]]:
    """(id, verdict, why) of the first `limit` units, abstentions first, for a table on the terminal."""
    records = sorted(verdict_rows(verdicts, ids), key=lambda record: record["verdict"] == "ACCEPT")
    return [(record["id"], record["verdict"], "; ".join(record["because"])) for record in records[:limit]]


def write_verdicts(path: str | Path, verdicts: Verdicts, ids: Sequence[Any] | None = None) -> None:
    """Write every record by suffix: .jsonl (NaN becomes null), .parquet / .pq, .arrow / .feather. Replaces whole files.

    Raises: VerdictTableError for another suffix or a wrong number of ids; OSError when the disk refuses.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in WRITABLE:
        raise VerdictTableError(f"{path}: expected one of {', '.join(WRITABLE)}, got {suffix or 'no suffix'}")
    partial = target.with_name(f".{target.name}.partial")
    try:
        if suffix == ".jsonl":
            _write_lines(partial, verdicts, ids)
        else:
            _write_arrow(partial, verdicts, ids, parquet=suffix in (".parquet", ".pq"))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _record(verdicts: Verdicts, number: int, unit: str, name: str) -> dict[str, Any]:
    kinds, hits = Reason(int(verdicts.reason_bits[number])), int(verdicts.rule_hits[number])
    actions = verdicts.actions
    return {
        "unit": unit,
        "id": name,
        "verdict": "ACCEPT" if verdicts.accept[number] else "ABSTAIN",
        "reasons": [kind.name for kind in Reason if kind & kinds],
        "rules": [rule.name for i, rule in enumerate(verdicts.policy.rules) if hits >> i & 1],
        "because": list(explain(verdicts, number)),
        "action": Action.NONE.name if actions is None else Action(int(actions[number])).name,
        "scores": dict(zip(verdicts.columns, verdicts.scores[number].tolist(), strict=True)),
        "p_values": dict(zip(verdicts.columns, verdicts.p_values[number].tolist(), strict=True)),
    }


def _write_lines(path: Path, verdicts: Verdicts, ids: Sequence[Any] | None) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for record in verdict_rows(verdicts, ids):
            for column in ("scores", "p_values"):
                record[column] = {name: _finite(value) for name, value in record[column].items()}
            stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_arrow(path: Path, verdicts: Verdicts, ids: Sequence[Any] | None, *, parquet: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(verdicts)
    records = verdict_rows(verdicts, ids)
    with pq.ParquetWriter(path, schema) if parquet else pa.ipc.new_file(str(path), schema) as writer:
        while batch := [_flat(record) for record in islice(records, BATCH_ROWS)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in record.items() if name not in ("scores", "p_values")}
    flat |= {f"score.{name}": value for name, value in record["scores"].items()}
    return flat | {f"p.{name}": value for name, value in record["p_values"].items()}


def _schema(verdicts: Verdicts) -> Any:
    import pyarrow as pa

    groups = () if verdicts.groups is None else verdicts.groups.columns
    columns = dict.fromkeys((*verdicts.columns, *groups))
    words = [pa.field(name, pa.string()) for name in ("unit", "id", "verdict")]
    words += [pa.field(name, pa.list_(pa.string())) for name in ("reasons", "rules", "because")]
    words.append(pa.field("action", pa.string()))
    numbers = [pa.field(f"{kind}.{name}", pa.float32()) for kind in ("score", "p") for name in columns]
    policy = verdicts.policy
    about = {"demur.monitor": policy.monitor, "demur.bundle": policy.bundle, "demur.version": str(policy.version)}
    return pa.schema(words + numbers, metadata=about)
