"""kill -9 at random moments: whatever was acknowledged through the pipe is in the log afterwards."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from demur.monitor.audit import AuditLog
from demur.monitor.audit.keys import write_key
from demur.monitor.audit.note import Signer
from demur.monitor.audit.verify import verify_log

from .conftest import ORIGIN
from .test_journal import records

KILLS = 24
WRITER = """
import os, sys, threading
from pathlib import Path
from demur.monitor.audit import AuditLog, Record
from demur.monitor.audit.keys import load_key

directory, key, life = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
log = AuditLog.open(directory, origin="test.example/log", signer=load_key(key), checkpoint_seconds=0.01, segment_bytes=64 << 10)

def work(worker):
    for i in range(10**9):
        pending = log.append(Record(kind="verdict", request=f"{life}/{worker}/{i}"), os.urandom(200))
        if pending.wait(60):
            os.write(1, f"{pending.sequence} {life}/{worker}/{i}\\n".encode())

for n in range(4):
    threading.Thread(target=work, args=(n,), daemon=True).start()
threading.Event().wait()
"""


def test_no_acknowledged_record_is_lost(tmp_path: Path, signer: Signer) -> None:
    key, log, dice = tmp_path / "key", tmp_path / "log", random.Random(20)
    write_key(key, signer)
    acknowledged: dict[int, str] = {}
    for life in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(log), str(key), str(life)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = [process.stdout.readline()]
            assert lines[0], process.stderr.read().decode()
            time.sleep(dice.uniform(0, 0.06))
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith(b"\n"):
                sequence, request = line.decode().split()
                assert int(sequence) not in acknowledged
                acknowledged[int(sequence)] = request
        report = verify_log(log, [signer.verifier])
        assert report.ok, report.problems
    AuditLog.open(log, origin=ORIGIN, signer=signer).close()
    found = records(log)
    assert [r.sequence for r in found] == list(range(len(found)))
    assert len(acknowledged) > KILLS * 4
    assert {s: found[s].request for s in acknowledged} == acknowledged
    report = verify_log(log, [signer.verifier])
    assert (report.problems, report.uncovered) == ((), 0)
    assert sum(r.kind == "start" for r in found) == KILLS + 1
