"""Records in order and without gaps, whatever threads, clocks and torn tails do."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from demur.monitor.audit import Pending, Record, VerdictBlock
from demur.monitor.audit.frame import Frame
from demur.monitor.audit.journal import Pace
from demur.monitor.audit.note import Signer
from demur.monitor.audit.segment import CorruptJournal, Cursor, Damage, Entry, read_at
from demur.monitor.audit.verify import verify_log
from demur.monitor.errors import AuditUnavailable

from .conftest import Opener


def records(directory: Path) -> list[Record]:
    items = list(Cursor(directory).read())
    assert not any(isinstance(item, Damage) for item in items)
    return [Record.parse(item.frame.leaf) for item in items if isinstance(item, Entry)]


def segment(directory: Path) -> Path:
    return max((directory / "journal").iterdir())


def test_many_threads_get_every_sequence_once(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    log = opened(tmp_path)
    taken: list[Pending] = []

    def work(worker: int) -> None:
        for i in range(100):
            ack = "after_sync" if i % 20 == 0 else "queued"
            taken.append(log.append(Record(kind="verdict", request=f"{worker}/{i}"), ack=ack, on_failure="block"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(pending.wait(20) for pending in taken)
    log.close()
    written = records(tmp_path)
    assert sorted(p.sequence for p in taken) == list(range(1, 1601))
    assert [r.sequence for r in written] == list(range(1602))
    assert all(written[p.sequence].request == p.record.request for p in taken)
    assert (written[0].kind, written[-1].kind) == ("start", "stop")
    assert verify_log(tmp_path, [signer.verifier]).ok


def test_one_sync_serves_many_records(tmp_path: Path, opened: Opener) -> None:
    log = opened(tmp_path, pace=Pace(group_seconds=0.02))
    last = [log.append(Record(kind="verdict")) for _ in range(500)][-1]
    assert last.wait(20)
    log.close()
    batches = {item.frame.batch for item in Cursor(tmp_path).read() if isinstance(item, Entry)}
    assert len(batches) < 50


def test_verdict_blocks_come_back_by_sequence(tmp_path: Path, opened: Opener) -> None:
    log = opened(tmp_path)
    scores = np.array([[np.nan], [2]], np.float32)
    block = VerdictBlock(("msp",), scores, scores, np.array([64, 0]), np.array([False, True]))
    pending = log.append(Record(kind="verdict"), block, ack="after_sync")
    entry = next(i for i in Cursor(tmp_path).read() if isinstance(i, Entry) and i.frame.sequence == pending.sequence)
    frame = read_at(entry.path, entry.offset)
    assert frame == entry.frame
    assert VerdictBlock.decode(frame.block).encode() == block.encode()


def test_a_clock_that_goes_backwards_breaks_nothing(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    times = iter([1000, 900, 950, 2000, 1, 1])
    clock: Callable[[], int] = lambda: next(times)  # noqa: E731
    log = opened(tmp_path, clock=clock)
    for _ in range(4):
        log.append(Record(kind="verdict")).wait(10)
    log.close()
    assert [(r.time_ns, r.clock_max_ns) for r in records(tmp_path)] == [
        (1000, 0), (900, 1000), (950, 1000), (2000, 0), (1, 2000), (1, 2000),
    ]  # fmt: skip
    again = opened(tmp_path, clock=lambda: 1500)
    again.close()
    assert records(tmp_path)[6].clock_max_ns == 2000
    assert verify_log(tmp_path, [signer.verifier]).ok


def batch(directory: Path, *leaves: bytes) -> list[bytes]:
    """Entries as one more group commit would have written them."""
    at = segment(directory).stat().st_size
    return [Frame(4 + i, at, leaf, b"").encode() for i, leaf in enumerate(leaves)]


LEAVES = [Record(kind="verdict", note="never acknowledged").leaf_at(4 + i, 10**18, 0) for i in range(3)]


@pytest.mark.parametrize("tear", ["one byte", "zeros", "garbage", "half an entry", "a hole before a whole entry"])
def test_a_torn_tail_is_cut_and_the_cut_recorded(small: Path, opened: Opener, signer: Signer, tear: str) -> None:
    entries = batch(small, *LEAVES)
    torn = {
        "one byte": b"D", "zeros": bytes(5000), "garbage": b"DMJ1" + b"\xff" * 60, "half an entry": entries[0][:200],
        "a hole before a whole entry": bytes(len(entries[0])) + entries[1],
    }[tear]  # fmt: skip
    sound = segment(small).read_bytes()
    segment(small).write_bytes(sound + torn)
    report = verify_log(small, [signer.verifier])
    assert (report.ok, report.tail_bytes) == (True, len(torn))
    opened(small).close()
    assert [r.kind for r in records(small)] == ["start", "verdict", "label", "stop", "start", "recovery", "stop"]
    assert f"{len(torn)} bytes" in records(small)[5].note
    assert segment(small).read_bytes().startswith(sound)
    assert verify_log(small, [signer.verifier]).tail_bytes == 0
    assert verify_log(small, [signer.verifier]).ok


def test_whole_entries_before_the_tear_are_kept(small: Path, opened: Opener, signer: Signer) -> None:
    entries = batch(small, *LEAVES)
    with segment(small).open("ab") as file:
        file.write(entries[0] + entries[1] + entries[2][:-1])
    opened(small).close()
    assert [r.kind for r in records(small)[4:]] == ["verdict", "verdict", "start", "recovery", "stop"]
    assert verify_log(small, [signer.verifier]).ok


def test_damage_in_acknowledged_data_is_never_cut(small: Path, opened: Opener) -> None:
    path = segment(small)
    sound = path.read_bytes()
    for at in (0, len(sound) // 3, len(sound) - 1):
        damaged = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(CorruptJournal, match="Nothing was cut"):
            opened(small)
        assert path.read_bytes() == damaged
    path.write_bytes(sound[:-1])
    with pytest.raises(AuditUnavailable, match="Nothing was cut"):
        opened(small)
    path.unlink()
    with pytest.raises(CorruptJournal, match="its checkpoint covers 4"):
        opened(small)
    path.write_bytes(sound)
    opened(small)


def test_damage_before_a_later_batch_is_not_a_torn_tail_even_without_a_checkpoint(
    tmp_path: Path, opened: Opener
) -> None:
    log = opened(tmp_path)
    for _ in range(3):
        log.append(Record(kind="verdict")).wait(10)
    log.close()
    (tmp_path / "checkpoint").unlink()
    path = segment(tmp_path)
    entries = [i for i in Cursor(tmp_path).read() if isinstance(i, Entry)]
    sound = bytearray(path.read_bytes())
    sound[entries[1].offset + 40] ^= 1
    path.write_bytes(bytes(sound))
    with pytest.raises(CorruptJournal, match=f"at byte {entries[1].offset} .*record 1.*Nothing was cut"):
        opened(tmp_path)


def test_a_missing_middle_segment_is_refused(tmp_path: Path, opened: Opener) -> None:
    log = opened(tmp_path, segment_bytes=1)
    for _ in range(3):
        log.append(Record(kind="verdict")).wait(10)
    log.close()
    sorted((tmp_path / "journal").iterdir())[1].unlink()
    with pytest.raises(CorruptJournal):
        opened(tmp_path)


def test_another_key_origin_or_process_is_refused_clearly(small: Path, opened: Opener) -> None:
    with pytest.raises(AuditUnavailable, match="another key"):
        opened(small, signer=Signer("x", bytes(32)))
    with pytest.raises(AuditUnavailable, match="belongs to the log"):
        opened(small, origin="other")
    log = opened(small)
    with pytest.raises(AuditUnavailable, match="another process has it open"):
        opened(small)
    log.close()
    opened(small)


def test_missing_tiles_are_made_again(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    log = opened(tmp_path)
    for _ in range(300):
        last = log.append(Record(kind="verdict"))
    last.wait(10)
    log.close()
    (tmp_path / "tile/0/000").unlink()
    (tmp_path / "tile/entries/000").write_bytes(b"short")
    assert not verify_log(tmp_path, [signer.verifier]).ok
    opened(tmp_path).close()
    assert verify_log(tmp_path, [signer.verifier]).ok


def test_strange_values_do_not_stop_the_log(tmp_path: Path, opened: Opener) -> None:
    log = opened(tmp_path)
    log.append(Record(kind="verdict", monitor=None, cause="\ud800" * 9999))  # type: ignore[arg-type]
    log.append(Record(kind="verdict", monitor=3.5)).wait(10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="67108864"):
        log.append(Record(kind="verdict"), bytes((64 << 20) + 1))
    assert log.append(Record(kind="verdict", note="x" * 100_000)).wait(10)
    log.close()
    log.close()
    assert [r.sequence for r in records(tmp_path)] == [0, 1, 2, 3, 4]
    assert "could not be written" in records(tmp_path)[2].cause
    assert log.append(Record(kind="verdict")).cause == "the log is closed"


def test_every_checkpoint_is_exported_and_a_bad_exporter_harms_nothing(tmp_path: Path, opened: Opener) -> None:
    notes: list[bytes] = []

    def broken(note: bytes) -> None:
        raise RuntimeError("witness down")

    log = opened(tmp_path, exports=[broken, notes.append])
    log.append(Record(kind="verdict")).wait(10)
    assert log.checkpoint() == notes[-1]
    log.close()
    assert b"\n3\n" in notes[-1]
    assert log.lag == 0
