"""A key and small logs that the tests may damage."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demur.monitor.audit import AuditLog, Record
from demur.monitor.audit.journal import Pace
from demur.monitor.audit.keys import generate
from demur.monitor.audit.note import Signer

ORIGIN = "test.example/log"
QUICK = Pace(group_seconds=0.0005, retry_seconds=0.02)

Opener = Callable[..., AuditLog]


@pytest.fixture(scope="session")
def signer() -> Signer:
    return generate(ORIGIN)


@pytest.fixture
def opened(signer: Signer) -> Iterator[Opener]:
    """Opens logs with the test key and closes them at the end."""
    logs: list[AuditLog] = []

    def open_log(directory: Path, **options: object) -> AuditLog:
        settings = {"origin": ORIGIN, "signer": signer, "pace": QUICK, "checkpoint_seconds": 0.05, **options}
        logs.append(AuditLog.open(directory, **settings))  # type: ignore[arg-type]
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


@pytest.fixture
def small(tmp_path: Path, opened: Opener) -> Path:
    """A closed log: start, two verdicts (one with a block), stop."""
    log = opened(tmp_path / "small")
    log.append(Record(kind="verdict", monitor="m", rows=2, accepted=1, reasons={"NOVEL": 1}), bytes(range(40)))
    log.append(Record(kind="label", target="1/0", note="7")).wait(10)
    log.close()
    return log.directory


@pytest.fixture
def tiny(tmp_path: Path, opened: Opener) -> Path:
    """The smallest closed log with a verdict block."""
    log = opened(tmp_path / "tiny")
    log.append(Record(kind="verdict", rows=1), b"block").wait(10)
    log.close()
    return log.directory
