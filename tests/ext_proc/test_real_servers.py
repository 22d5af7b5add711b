"""MLServer and KServe's ModelServer behind a real Envoy, which asks demur: real clients print the same with and without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demur.monitor.audit.export import read_log
from tests.ext_proc.mesh import RealEnvoy, filter_of_the_page
from tests.servers.conftest import Place, digits, kserve, mlserver
from tests.servers.processes import both
from tests.servers.test_same_answers import ROWS, WAYS

pytestmark = pytest.mark.servers
__all__ = ["digits", "kserve", "mlserver"]  # fixtures
CASES = [(server, *way) for server, ways in WAYS.items() for way in ways if way[0] in ("triton_http", "kserve_rest")]


@dataclass
class Behind:
    """A server behind an Envoy."""

    address: str
    audit: Path


def behind(digits: Any, server: Place, folder: Path, mode: str) -> Iterator[Behind]:
    mapped = {"monitor": "digits", "signals": {"logits": "logits", "features": "features"}}
    forest = {"monitor": "forest", "signals": {"features": "predict_proba"}, "default_outputs": ["predict"]}
    document = {
        "listen": ["127.0.0.1:0"],
        "monitors": [
            {"name": n, "bundle": str(digits.folder / f"{n}.demur"), "mode": mode} for n in ("digits", "forest")
        ],
        "audit": {"directory": str(folder / "audit"), "origin": "test"},
        "drain_seconds": 0,
        "ext_proc": {
            "listen": f"unix:{folder}/demur.sock",
            "infer": {"digits": mapped, "forest": forest},
            "budget_ms": 1500,
        },
    }
    (folder / "demur.yaml").write_text(yaml.safe_dump(document))
    command = [
        sys.executable,
        "-m",
        "demur.monitor.cli.main",
        "serve",
        "--config",
        str(folder / "demur.yaml"),
        "--announce",
    ]
    demur = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert demur.stdout is not None
    demur.stdout.readline()
    port = int(server.rest.rpartition(":")[2])
    with RealEnvoy(folder, {"page": filter_of_the_page()}, demur=f"unix:{folder}/demur.sock", upstream=port) as envoy:
        envoy.healthy("demur", wanted=True)
        yield Behind(f"127.0.0.1:{envoy.ports['page']}", folder / "audit")
        assert envoy.stat("page", "spurious_msgs_received") == 0
        assert envoy.stat("page", "failure_mode_allowed") == 0
        assert envoy.stat("page", "streams_failed") == 0
    demur.terminate()
    demur.communicate(timeout=30)


@pytest.fixture(scope="module")
def before_mlserver(digits, mlserver, tmp_path_factory):
    yield from behind(digits, mlserver, tmp_path_factory.mktemp("m"), "observe")


@pytest.fixture(scope="module")
def before_kserve(digits, kserve, tmp_path_factory):
    yield from behind(digits, kserve, tmp_path_factory.mktemp("k"), "observe")


@pytest.mark.parametrize(("server", "name", "model", "way"), CASES, ids=["-".join(c) for c in CASES])
def test_a_client_program_prints_the_same(request, digits, server, name, model, way):
    direct, envoy = request.getfixturevalue(server), request.getfixturevalue(f"before_{server}")
    before = len(rows(envoy.audit))
    said, through = both(name, (direct.rest, envoy.address), model, str(digits.images), way)
    assert through == said
    assert "error" not in said
    judged = rows(envoy.audit)[before:]
    assert sum(n for n, _ in judged) == ROWS
    assert 4 <= sum(n for _, n in judged) <= (ROWS if model == "forest" else ROWS - 1)


def rows(audit: Path) -> list[tuple[int, int]]:
    """Rows and accepted rows of each record."""
    return [(r.rows, r.accepted) for r, _ in read_log(audit) if r.kind == "verdict"]


def test_refused_digits_do_not_reach_the_client(digits, mlserver, tmp_path_factory):
    images = np.load(digits.images)
    making = behind(digits, mlserver, tmp_path_factory.mktemp("e"), "enforce")
    envoy = next(making)
    statuses = []
    for image in images:
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, image.size], "data": image.ravel().tolist()}
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": "predict"}]})
        where = f"http://{envoy.address}/v2/models/digits/infer"
        options = ["-sS", "-w", "%{http_code}", "-H", "Content-Type: application/json", "--data-binary", "@-"]
        command = ["curl", *options, where]
        done = subprocess.run(command, input=body, capture_output=True, text=True, check=True)
        statuses.append(int(done.stdout[-3:]))
        assert ("predict" in done.stdout) == (statuses[-1] == 200)
    next(making, None)
    assert set(statuses) == {200, 412}
    assert statuses[:6].count(200) >= 4, "known digits"
    assert statuses[6:].count(412) >= 1, "digits the model never saw"
