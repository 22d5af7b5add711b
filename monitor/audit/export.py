"""The log as JSON lines or Parquet, for people's own tools. Copies: the proof stays with the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from demur.monitor.audit.block import VerdictBlock
from demur.monitor.audit.record import Record
from demur.monitor.audit.segment import CorruptJournal, Cursor, Damage

if TYPE_CHECKING:
    import numpy as np

BATCH = 4096


def read_log(directory: Path | str, first: int = 0) -> Iterator[tuple[Record, bytes]]:
    """Every record from sequence `first` on, with the bytes of its verdict block (b"" for none).

    Raises: CorruptJournal at damage in acknowledged data, InvalidRecord, OSError.
    """
    for item in Cursor(Path(directory)).read():
        if isinstance(item, Damage):
            if not item.torn:
                raise CorruptJournal(f"{item.path}: damaged at byte {item.offset}; run `demur audit verify`")
            return
        if item.frame.sequence >= first:
            yield Record.parse(item.frame.leaf), item.frame.block


def write_jsonl(directory: Path | str, out: IO[str], *, blocks: bool = False) -> int:
    """Write each leaf as one line, byte for byte; how many. With `blocks`, a "verdicts" list of the rows is added.

    Scores that are not finite are written as the strings "NaN", "Infinity", "-Infinity". Raises: as `read_log`.
    """
    lines = 0
    for record, block in read_log(directory):
        line = record.leaf().decode()
        if blocks and block:
            line = f'{line[:-1]},"verdicts":{json.dumps(_rows(VerdictBlock.decode(block)), allow_nan=False)}}}'
        out.write(line + "\n")
        lines += 1
    return lines


def write_parquet(directory: Path | str, path: Path | str) -> int:
    """Write one row per record, the reasons as a map and the verdict block as bytes; how many.

    Raises: as `read_log`; ImportError without pyarrow.
    """
    import pyarrow as pa  # heavy, and only for this
    import pyarrow.parquet as pq

    names = [
        name
        for name in Record.__slots__
        if name not in ("rows", "accepted", "reasons", "sequence", "time_ns", "count", "clock_max_ns")
    ]
    schema = pa.schema(
        [("sequence", pa.int64()), ("time_ns", pa.int64()), ("clock_max_ns", pa.int64()), ("rows", pa.int64()),
         ("accepted", pa.int64()), ("count", pa.int64()), ("reasons", pa.map_(pa.string(), pa.int64())),
         *((name, pa.string()) for name in names), ("verdict_block", pa.binary())]
    )  # fmt: skip
    written = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(directory):
            columns = {f.name: [row[f.name] for row in batch] for f in schema}
            writer.write_table(pa.table(columns, schema=schema))
            written += len(batch)
    return written


def _batches(directory: Path | str) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for record, block in read_log(directory):
        row: dict[str, Any] = {name: getattr(record, name) for name in Record.__slots__}
        row |= {"reasons": list(record.reasons.items()), "verdict_block": block or None}
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(block: VerdictBlock) -> list[dict[str, Any]]:
    return [
        {
            "accept": bool(block.accept[i]),
            "reasons": int(block.reasons[i]),
            "scores": dict(zip(block.columns, map(_plain, block.scores[i]), strict=True)),
            "p_values": dict(zip(block.columns, map(_plain, block.p_values[i]), strict=True)),
        }
        for i in range(len(block.accept))
    ]


def _plain(value: np.float32) -> float | str:
    number = float(value)
    if number != number:  # noqa: PLR0124 - NaN
        return "NaN"
    return number if abs(number) != float("inf") else ("Infinity" if number > 0 else "-Infinity")
