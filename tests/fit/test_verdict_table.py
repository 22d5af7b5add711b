"""Verdicts written as rows keep every unit, reason and number."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demur.detectors.reason import Reason
from demur.monitor.fit import verdict_table
from demur.monitor.fit.verdict_table import VerdictTableError, terminal_rows, verdict_rows, write_verdicts
from demur.monitor.verdicts import PolicyView, RuleView, Verdicts

RULE = RuleView("novel", "energy", Reason.NOVEL, "row", np.array([2.0], np.float32), "at most 5 %", 0.05, by_p=True)
POLICY = PolicyView("digits", "ab" * 32, 3, ("energy", "msp"), ("worst",), (RULE,))


def verdicts(rows: int = 3) -> Verdicts:
    bits = np.zeros(rows, np.int64)
    bits[1], bits[2] = Reason.NOVEL, Reason.INVALID
    scores = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    scores[2, 0] = np.nan
    hits = (bits == Reason.NOVEL).astype(np.int64)
    zeros = np.zeros(rows, np.int64)
    return Verdicts(POLICY, bits == 0, bits, hits, zeros, scores, scores / 10, POLICY.columns, np.uint8(bits > 0) * 2)


def with_groups() -> Verdicts:
    one = np.ones((1, 1), np.float32)
    zero = np.zeros(1, np.int64)
    group = Verdicts(POLICY, np.ones(1, bool), zero, zero, zero, one, one, ("worst",))
    return replace(verdicts(), groups=group, group_ids=np.array([77]))


def test_records():
    first, second, third = verdict_rows(verdicts(), ["a", "b", "c"])
    assert (first["id"], first["verdict"], first["reasons"], first["action"]) == ("a", "ACCEPT", [], "NONE")
    assert (second["reasons"], second["rules"], second["action"]) == (["NOVEL"], ["novel"], "BLOCK")
    assert second["because"] == ['NOVEL: energy p = 0.2, rule "novel" refuses at p <= 0.05']
    assert second["scores"] == {"energy": 2.0, "msp": 3.0}
    assert third["reasons"] == ["INVALID"]
    assert math.isnan(third["scores"]["energy"])


def test_groups_follow_rows():
    records = list(verdict_rows(with_groups()))
    assert [(record["unit"], record["id"]) for record in records] == [
        ("row", "0"),
        ("row", "1"),
        ("row", "2"),
        ("group", "77"),
    ]


def test_terminal_shows_abstentions_first():
    assert [row[:2] for row in terminal_rows(verdicts(), limit=2)] == [("1", "ABSTAIN"), ("2", "ABSTAIN")]


@pytest.mark.parametrize("name", ["v.jsonl", "v.parquet", "v.arrow"])
@pytest.mark.parametrize("batch", [2, 3, 1000])
def test_every_unit_is_written(tmp_path, monkeypatch, name, batch):
    monkeypatch.setattr(verdict_table, "BATCH_ROWS", batch)
    path = tmp_path / name
    write_verdicts(path, with_groups(), ["a", "b", "c"])
    if name.endswith("jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[2]["scores"] == {"energy": None, "msp": 5.0}
    else:
        table = pq.read_table(path) if name.endswith("parquet") else pa.ipc.open_file(str(path)).read_all()
        assert table.schema.metadata[b"demur.bundle"] == POLICY.bundle.encode()
        rows = table.to_pylist()
        assert rows[1]["score.energy"] == 2.0
        assert math.isnan(rows[2]["score.energy"])
        assert (rows[3]["score.worst"], rows[3]["score.energy"]) == (1.0, None)
    assert [row["id"] for row in rows] == ["a", "b", "c", "77"]
    assert [row["verdict"] for row in rows] == ["ACCEPT", "ABSTAIN", "ABSTAIN", "ACCEPT"]
    assert rows[1]["reasons"] == ["NOVEL"]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_refusals(tmp_path):
    with pytest.raises(VerdictTableError, match=r"expected one of \.jsonl, .*got \.csv"):
        write_verdicts(tmp_path / "v.csv", verdicts())
    (tmp_path / "v.parquet").write_bytes(b"kept")
    with pytest.raises(VerdictTableError, match=r"ids: expected 3, one for each row, got 1"):
        write_verdicts(tmp_path / "v.parquet", verdicts(), ["a"])
    assert (tmp_path / "v.parquet").read_bytes() == b"kept"
    assert len(list(tmp_path.iterdir())) == 1
