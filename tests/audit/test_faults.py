"""Full, read-only and failing disks, under each policy: what is answered, what is counted, what comes back."""

import errno
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from demur.monitor.audit import AuditLog, Record
from demur.monitor.audit.journal import Pace
from demur.monitor.audit.note import Signer
from demur.monitor.audit.pending import State
from demur.monitor.audit.storage import DiskStorage
from demur.monitor.audit.verify import verify_log
from demur.monitor.errors import AuditUnavailable

from .conftest import QUICK, Opener
from .test_journal import records


class Faulty(DiskStorage):
    """A disk on which chosen calls fail, except under folders named in `spared`."""

    def __init__(self, *spared: Path) -> None:
        self.code = 0
        self.calls: tuple[str, ...] = ("open", "write", "sync", "truncate", "publish")
        self.spared = spared
        self.tear = False
        self.failed = 0

    def _maybe(self, call: str, path: Path) -> None:
        if self.code and call in self.calls and not any(path.is_relative_to(s) for s in self.spared):
            self.failed += 1
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path) -> int:
        self._maybe("open", path)
        return super().open(path)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if self.code and self.tear:
            super().write(descriptor, data[: len(data) // 2], offset)
        self._maybe("write", path)
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        self._maybe("sync", Path(f"/proc/self/fd/{descriptor}").readlink())
        super().sync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        self._maybe("truncate", Path(f"/proc/self/fd/{descriptor}").readlink())
        super().truncate(descriptor, size)

    def publish(self, path: Path, data: bytes) -> None:
        self._maybe("publish", path)
        super().publish(path, data)


FAULTS = [
    (errno.ENOSPC, ("write", "publish")),
    (errno.EROFS, ("open", "write", "truncate", "publish")),
    (errno.EIO, ("sync",)),
    (errno.EIO, ("open", "write", "sync", "truncate", "publish")),
]
IDS = ["full", "read-only", "failing sync", "gone"]


def until(condition: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def broken(disk: Faulty, fault: tuple[int, tuple[str, ...]], log: AuditLog) -> None:
    disk.calls, disk.code = fault[1], fault[0]
    log.append(Record(kind="verdict", monitor="first")).wait(10)
    until(lambda: log.failure)


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_block_raises_and_the_log_goes_on_when_the_disk_returns(
    tmp_path: Path, opened: Opener, signer: Signer, fault: tuple[int, tuple[str, ...]]
) -> None:
    disk = Faulty()
    log = opened(tmp_path, storage=disk)
    log.append(Record(kind="verdict", request="before"), ack="after_sync", on_failure="block")
    disk.calls, disk.code = fault[1], fault[0]
    for ack in ("after_sync", "after_sync", "queued"):
        with pytest.raises(AuditUnavailable, match=os.strerror(fault[0])):
            log.append(Record(kind="verdict", monitor="m", request="lost"), ack=ack, on_failure="block")
    assert log.dropped == 3
    disk.code = 0
    until(lambda: not log.failure)
    log.append(Record(kind="verdict", request="after"), ack="after_sync", on_failure="block")
    log.close()
    kinds = [(r.kind, r.request, r.count) for r in records(tmp_path)]
    assert kinds == [
        ("start", "", 0), ("verdict", "before", 0), ("recovery", "", 0), ("drop", "", 3), ("verdict", "after", 0), ("stop", "", 0),
    ]  # fmt: skip
    assert os.strerror(fault[0]) in records(tmp_path)[3].cause
    report = verify_log(tmp_path, [signer.verifier])
    assert (report.problems, report.drops) == ((), 3)


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_serve_and_count_never_raises_never_waits_and_counts_everything(
    tmp_path: Path, opened: Opener, signer: Signer, fault: tuple[int, tuple[str, ...]]
) -> None:
    disk = Faulty()
    log = opened(tmp_path, storage=disk)
    broken(disk, fault, log)
    began = time.monotonic()
    for i in range(2000):
        pending = log.append(Record(kind="verdict", monitor="a" if i % 2 else "b"), ack="after_sync")
        assert (pending.state, pending.sequence, pending.audited) == (State.LOST, -1, False)
    assert time.monotonic() - began < 5
    assert log.queued == 0
    disk.code = 0
    until(lambda: not log.failure)
    log.close()
    drops: Counter[str] = Counter()
    for record in records(tmp_path):  # several drop records a monitor when the disk comes and goes
        drops[record.monitor] += record.count if record.kind == "drop" else 0
    assert +drops == {"first": 1, "a": 1000, "b": 1000}
    assert verify_log(tmp_path, [signer.verifier]).ok


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_spill_loses_nothing_and_comes_back_in_order(
    tmp_path: Path, opened: Opener, signer: Signer, fault: tuple[int, tuple[str, ...]]
) -> None:
    disk, aside = Faulty(tmp_path / "aside"), tmp_path / "aside"
    log = opened(tmp_path / "log", storage=disk, spill_directory=aside)
    disk.calls, disk.code = fault[1], fault[0]
    for i in range(700):
        last = log.append(Record(kind="verdict", monitor="m", request=str(i)), b"b%d" % i, on_failure="spill")
    assert last.wait(20)
    assert (last.state, last.audited) == (State.SPILLED, True)
    assert (
        log.append(Record(kind="verdict", request="700"), ack="after_sync", on_failure="spill").state is State.SPILLED
    )
    assert list(aside.glob("*.journal"))
    disk.code = 0
    until(lambda: not log.failure)
    assert not list(aside.glob("*.journal"))
    log.append(Record(kind="verdict", request="701"), ack="after_sync", on_failure="spill")
    log.close()
    found = records(tmp_path / "log")
    assert [r.request for r in found if r.kind == "verdict"] == [str(i) for i in range(702)]
    assert log.dropped == 0
    report = verify_log(tmp_path / "log", [signer.verifier])
    assert (report.problems, report.blocks) == ((), 700)


def test_spilled_records_of_a_dead_process_are_merged_once(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    disk, aside = Faulty(tmp_path / "aside"), tmp_path / "aside"
    log = opened(tmp_path / "log", storage=disk, spill_directory=aside)
    disk.code = errno.EIO
    for i in range(300):
        log.append(Record(kind="verdict", request=str(i)), on_failure="spill").wait(10)
    log.close()
    (spilled,) = aside.glob("*.journal")
    copy = spilled.read_bytes()
    opened(tmp_path / "log", spill_directory=aside).close()
    assert not spilled.exists()
    spilled.write_bytes(copy + b"DMJ1torn")  # as if the process had died between the merge and the removal
    opened(tmp_path / "log", spill_directory=aside).close()
    found = [r.request for r in records(tmp_path / "log") if r.kind == "verdict"]
    assert found == [str(i) for i in range(300)]
    assert not spilled.exists()
    assert verify_log(tmp_path / "log", [signer.verifier]).ok


def test_spill_counts_what_the_spill_folder_cannot_take_either(tmp_path: Path, opened: Opener) -> None:
    disk = Faulty()
    log = opened(tmp_path / "log", storage=disk, spill_directory=tmp_path / "aside")
    disk.code = errno.ENOSPC
    pendings = [log.append(Record(kind="verdict", monitor="m"), on_failure="spill") for _ in range(5)]
    assert not any(p.wait(10) for p in pendings)
    disk.code = 0
    until(lambda: not log.failure)
    log.close()
    assert sum(r.count for r in records(tmp_path / "log") if r.kind == "drop") == 5


def test_a_torn_write_leaves_no_trace(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    disk = Faulty()
    log = opened(tmp_path, storage=disk)
    disk.calls, disk.tear, disk.code = ("write",), True, errno.EIO
    log.append(Record(kind="verdict", request="torn")).wait(10)
    disk.code = 0
    until(lambda: not log.failure)
    log.append(Record(kind="verdict", request="whole")).wait(10)
    log.close()
    assert [r.request for r in records(tmp_path) if r.kind == "verdict"] == ["whole"]
    assert verify_log(tmp_path, [signer.verifier]).ok


def test_checkpoints_go_on_after_the_disk_was_full(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    disk = Faulty()
    log = opened(tmp_path, storage=disk)
    disk.calls, disk.code = ("publish",), errno.ENOSPC
    for _ in range(600):
        last = log.append(Record(kind="verdict"))
    assert last.wait(10)
    with pytest.raises(AuditUnavailable, match="checkpoint"):
        log.checkpoint()
    assert log.lag > 500
    disk.code = 0
    log.checkpoint()
    assert log.lag == 0
    log.close()
    assert verify_log(tmp_path, [signer.verifier]).ok


def test_a_disk_that_never_returns_is_reported_at_close(
    tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Faulty()
    log = opened(tmp_path, storage=disk)
    broken(disk, FAULTS[3], log)
    log.close()
    assert "1 of first" in caplog.text
    disk.code = 0
    assert [r.kind for r in records(tmp_path)] == ["start"]


def test_a_disk_that_cannot_be_written_refuses_to_open(tmp_path: Path, opened: Opener) -> None:
    disk = Faulty()
    disk.code = errno.EROFS
    with pytest.raises(AuditUnavailable, match="check the folder's disk"):
        opened(tmp_path / "log", storage=disk)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AuditUnavailable, match="check the folder's disk"):
        opened(tmp_path / "file")
    disk.code = 0
    opened(tmp_path / "log", storage=disk)


class Slow(DiskStorage):
    """A disk whose sync waits for a gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def sync(self, descriptor: int) -> None:
        assert self.gate.wait(30)
        super().sync(descriptor)


def test_a_slow_disk_bounds_the_queue_and_counts_the_rest(tmp_path: Path, opened: Opener) -> None:
    disk = Slow()
    log = opened(tmp_path, storage=disk, pace=Pace(group_seconds=0, retry_seconds=0.02, queue_records=50))
    disk.gate.clear()
    log.append(Record(kind="verdict", monitor="m"))
    until(lambda: log.queued == 0)
    pendings = [log.append(Record(kind="verdict", monitor="m")) for _ in range(80)]
    assert [p.state for p in pendings] == [State.QUEUED] * 50 + [State.LOST] * 30
    with pytest.raises(AuditUnavailable, match="queue is full"):
        log.append(Record(kind="verdict", monitor="m"), on_failure="block", timeout=0.02)
    disk.gate.set()
    assert all(p.wait(10) for p in pendings[:50])
    log.close()
    assert [r.count for r in records(tmp_path) if r.kind == "drop"] == [31]
    assert [r.sequence for r in records(tmp_path)] == list(range(len(records(tmp_path))))


def test_the_queue_is_bounded_in_bytes(tmp_path: Path, opened: Opener) -> None:
    disk = Slow()
    log = opened(tmp_path, storage=disk, pace=Pace(group_seconds=0, queue_bytes=1 << 20))
    disk.gate.clear()
    log.append(Record(kind="verdict"))
    until(lambda: log.queued == 0)
    states = [log.append(Record(kind="verdict"), bytes(1 << 19)).state for _ in range(5)]
    assert states == [State.QUEUED] * 2 + [State.LOST] * 3
    disk.gate.set()


def test_block_gives_up_when_a_sync_hangs(tmp_path: Path, opened: Opener) -> None:
    disk = Slow()
    log = opened(tmp_path, storage=disk, pace=QUICK)
    disk.gate.clear()
    with pytest.raises(AuditUnavailable, match="not synced within"):
        log.append(Record(kind="verdict"), ack="after_sync", on_failure="block", timeout=0.05)
    disk.gate.set()


def test_refused_requests_are_counted_in_a_drop_record(tmp_path: Path, opened: Opener) -> None:
    log = opened(tmp_path)
    for _ in range(7):
        log.count_drop("m", "overloaded")
    until(lambda: log.size >= 2)
    log.close()
    drops = [r for r in records(tmp_path) if r.kind == "drop"]
    assert sum(r.count for r in drops) == 7
    assert {(r.monitor, r.cause) for r in drops} == {("m", "overloaded")}
