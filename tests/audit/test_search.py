"""Index, export and keys."""

import io
import json
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from demur.monitor.audit import AuditIndex, Query, Record, VerdictBlock, verify_log
from demur.monitor.audit.export import read_log, write_jsonl, write_parquet
from demur.monitor.audit.keys import UnusableKey, generate, key_name, load_key, load_or_make, load_public, write_key
from demur.monitor.audit.note import InvalidNote, Signer

from .conftest import Opener

SCORES = np.array([[np.nan], [np.inf], [-np.inf], [1.5]], np.float32)
BLOCK = VerdictBlock(("msp",), SCORES, SCORES, np.array([64, 1, 0, 0]), np.array([False, False, True, True]))


@pytest.fixture
def log(tmp_path: Path, opened: Opener) -> Path:
    """start, 20 verdicts of two monitors, a label, stop."""
    log = opened(tmp_path / "log", clock=iter(range(1000, 10_000)).__next__)
    for i in range(20):
        reasons = {"NOVEL": 1} if i % 4 == 0 else {}
        record = Record(
            kind="verdict", monitor=f"m{i % 2}", request=f"r{i}", rows=4, accepted=4 - len(reasons), reasons=reasons
        )
        log.append(record, BLOCK if i == 6 else b"").wait(10)
    log.append(Record(kind="label", target="7/3", monitor="m0", note="5")).wait(10)
    log.close()
    return log.directory


def test_search_by_every_filter(log: Path) -> None:
    with AuditIndex(log) as index:
        assert index.refresh() == 23

        def found(query: Query) -> list[int]:
            assert index.count(query) == len(index.search(query))
            return [r.sequence for r in index.search(query)]

        assert found(Query()) == list(range(22, -1, -1))
        assert found(Query(kind="verdict", monitor="m1", oldest_first=True)) == list(range(2, 21, 2))
        assert found(Query(reason="NOVEL")) == [17, 13, 9, 5, 1]
        assert found(Query(reason="AMBIGUOUS")) == []
        assert found(Query(accepted=False)) == [17, 13, 9, 5, 1]
        assert len(found(Query(accepted=True))) == 15
        assert found(Query(request="r3")) == [4]
        assert found(Query(target="7/3")) == [21]
        assert found(Query(since_ns=1003, until_ns=1005)) == [4, 3]
        assert found(Query(before=3)) == [2, 1, 0]
        assert [r.sequence for r in index.search(Query(limit=2))] == [22, 21]
        assert found(Query(monitor="' OR 1=1 --")) == []


def test_show_reads_the_record_and_its_block(log: Path) -> None:
    with AuditIndex(log) as index:
        index.refresh()
        record, block = index.show(7)
        assert (record.request, record.sequence) == ("r6", 7)
        assert block is not None
        assert block.encode() == BLOCK.encode()
        assert index.show(1)[1] is None
        for absent in (-1, 23, 1 << 70):
            with pytest.raises(KeyError, match="expected one of the 23"):
                index.show(absent)


def test_the_index_follows_the_log_and_is_rebuilt_when_the_log_is_another(log: Path, opened: Opener) -> None:
    with AuditIndex(log) as index:
        assert index.refresh() == 23
        assert index.refresh() == 23
        again = opened(log)
        again.append(Record(kind="review", request="new")).wait(10)
        assert index.refresh() == 25
        assert index.search(Query(limit=1))[0].request == "new"
        again.close()
        for path in (log / "journal").iterdir():
            path.unlink()
        assert index.refresh() == 0
        assert index.search() == []


def test_the_index_is_outside_the_proof(log: Path, signer: Signer) -> None:
    with AuditIndex(log) as index:
        index.refresh()
    assert verify_log(log, [signer.verifier]).ok
    with sqlite3.connect(log / "index.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with AuditIndex(log) as index:
        assert index.refresh() == 23


def test_json_lines_are_the_leaves(log: Path) -> None:
    out = io.StringIO()
    assert write_jsonl(log, out) == 23
    lines = out.getvalue().splitlines()
    assert [line.encode() for line in lines] == [record.leaf() for record, _ in read_log(log)]
    assert len(list(read_log(log, first=20))) == 3
    out = io.StringIO()
    write_jsonl(log, out, blocks=True)
    verdicts = json.loads(out.getvalue().splitlines()[7])["verdicts"]
    assert [v["scores"]["msp"] for v in verdicts] == ["NaN", "Infinity", "-Infinity", 1.5]
    assert [v["accept"] for v in verdicts] == [False, False, True, True]


def test_parquet_holds_every_record(log: Path, tmp_path: Path) -> None:
    assert write_parquet(log, tmp_path / "log.parquet") == 23
    table = pq.read_table(tmp_path / "log.parquet").to_pylist()
    assert [row["sequence"] for row in table] == list(range(23))
    assert dict(table[1]["reasons"]) == {"NOVEL": 1}
    assert (table[2]["monitor"], table[2]["accepted"], table[21]["target"]) == ("m1", 4, "7/3")
    assert table[7]["verdict_block"] == BLOCK.encode()
    assert table[1]["verdict_block"] is None


def test_key_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    signer = generate("cluster/pod")
    public = write_key(tmp_path / "keys" / "audit.key", signer)
    path = tmp_path / "keys" / "audit.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).sign(b"x\n") == signer.sign(b"x\n")
    assert load_public(public) == signer.verifier
    assert load_or_make(path, "other").name == "cluster/pod"
    assert load_or_make(tmp_path / "fresh", "fresh").name == "fresh"
    with pytest.raises(FileExistsError):
        write_key(path, signer)
    path.chmod(0o604)
    with pytest.raises(UnusableKey, match="everyone"):
        load_key(path)


def test_bad_key_files_say_what_to_do_and_not_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(UnusableKey, match="keygen"):
        load_key(path)
    secret = generate("n").secret()
    for content in (secret[:-1], "PRIVATE+KEY+n", "\xff"):
        path.write_bytes(content.encode("latin-1"))
        path.chmod(0o600)
        with pytest.raises(UnusableKey) as error:
            load_key(path)
        assert secret[-30:-2] not in str(error.value)
    with pytest.raises(UnusableKey):
        load_public(path)
    path.write_text(secret)
    with pytest.raises(UnusableKey, match=r"this is the private key; give its public half") as refused:
        load_public(path)
    assert secret[-30:-2] not in str(refused.value)


def test_a_log_that_was_begun_gets_no_other_key(tmp_path: Path) -> None:
    key, public = tmp_path / "audit.key", tmp_path / "key.pub"
    signer = load_or_make(key, "toy", begun=public)
    public.write_text(f"{signer.verifier}\n")
    assert load_or_make(key, "toy", begun=public).verifier == signer.verifier
    key.unlink()
    (tmp_path / "audit.key.pub").unlink()
    with pytest.raises(UnusableKey, match=r"put that key back, or begin a new log"):
        load_or_make(key, "toy", begun=public)
    assert [p.name for p in tmp_path.iterdir()] == ["key.pub"]


def test_names_of_keys() -> None:
    assert key_name("cluster a/ns+b\n") == "cluster-a/ns-b-"
    assert key_name("") == "demur"
    with pytest.raises(InvalidNote):
        generate("two words")
