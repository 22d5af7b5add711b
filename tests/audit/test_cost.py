"""Loose bounds on cost: far from the targets, close enough to notice a sync per record or a heavy import."""

import subprocess
import sys
import time
from pathlib import Path

from demur.monitor.audit import Record

from .conftest import Opener


def test_group_commit_outruns_a_sync_per_record(tmp_path: Path, opened: Opener) -> None:
    log = opened(tmp_path)
    record = Record(
        kind="verdict", monitor="m", bundle="a" * 64, request="r" * 32, rows=16, accepted=12, reasons={"NOVEL": 4}
    )
    began = time.perf_counter()
    pendings = [log.append(record, bytes(400)) for _ in range(4000)]
    assert all(pending.wait(30) for pending in pendings)
    assert time.perf_counter() - began < 8


def test_a_server_that_appends_imports_nothing_heavy() -> None:
    heavy = ("grpc", "onnxruntime", "onnx", "pyarrow", "sqlite3", "pydantic")
    code = f"import demur.monitor.audit, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    from demur.monitor import audit

    assert all(getattr(audit, name) for name in audit.__all__)
    assert not hasattr(audit, "nothing")
