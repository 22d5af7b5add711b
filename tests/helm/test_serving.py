"""What the chart writes, served: only paths, ports and the model's address are this machine's. Runs without Helm."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).parent / "golden"


@contextmanager
def serving(folder: Path, name: str, places: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The addresses of `demur serve` with the golden configuration of this name."""
    text = (GOLDEN / f"{name}.yaml").read_text()
    for before, after in {
        "/bundles/": f"{folder}/", "/var/lib/demur/": f"{folder}/", "/run/demur/": f"{folder}/",
        "/run/secrets/demur/tls/": f"{folder}/", "/run/secrets/demur/client-ca/": f"{folder}/", **places,
    }.items():  # fmt: skip
        text = text.replace(before, after)
    path = folder / "demur.yaml"
    path.write_text(re.sub(r'"0\.0\.0\.0:\d+"', '"127.0.0.1:0"', text))
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(path), "--announce"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=20)[1]
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_sidecar_judges_what_the_models_own_container_answers(tmp_path):
    import grpc
    import numpy as np

    from demur.proto.oip.inference_pb2 import ModelInferResponse
    from tests.adapters.conftest import INFER, Stage, answer, request
    from tests.rest.conftest import INFER as PATH
    from tests.rest.conftest import Stage as RestStage
    from tests.service.bundles import row_bundle

    row_bundle().save(tmp_path / "digits.demur")
    (tmp_path / "pooled.signals.yaml").write_text("signals: {logits: scores}\n")
    model, rest = Stage(), RestStage()
    model.upstream.says(answer())
    places = {"127.0.0.1:8001": model.target, "http://127.0.0.1:8000": rest.direct}
    try:
        with serving(tmp_path, "proxy-sidecar", places) as found:
            assert found["listen"] == [f"unix:{tmp_path}/demur.sock"]
            call = model.channel(found["proxy"]).unary_unary(INFER)
            said = ModelInferResponse.FromString(call(request(), timeout=10))
            assert json.loads(said.parameters["demur.accept"].string_param) == [True, False]
            assert np.frombuffer(said.raw_output_contents[0], "<i8").tolist() == [0, -1]  # the refused row's label
            with pytest.raises(grpc.RpcError, match="unmapped is block"):
                call(request(model="letters"), timeout=10)
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [9.0, 0, 0, 0]}
            told = rest.client.post(f"http://{found['proxy_rest']}{PATH}", json={"inputs": [tensor]}).json()
            assert told["parameters"]["demur.verdict"] == "ACCEPT"
    finally:
        model.close()
        rest.close()


def test_the_external_processor_answers_envoys_with_a_certificate_alone(tmp_path):
    import grpc

    from tests.adapters.test_oip_proxy import certificate
    from tests.ext_proc.conftest import PATH, infer, scores
    from tests.ext_proc.simulator import Answer, Envoy
    from tests.service.bundles import BAD, GOOD, row_bundle, stream_bundle

    key, cert = certificate()
    for name, content in (("tls.crt", cert), ("tls.key", key), ("ca.crt", cert)):
        (tmp_path / name).write_bytes(content)
    row_bundle().save(tmp_path / "digits.demur")
    stream_bundle().save(tmp_path / "tokens.demur")

    def envoy(address: str, *, own: bool) -> Envoy:
        pair = {"private_key": key, "certificate_chain": cert} if own else {}
        said = lambda row: Answer(headers={"content-type": "application/json"}, body=scores(row))  # noqa: E731
        rows = iter((BAD, GOOD))
        secret = grpc.ssl_channel_credentials(cert, **pair)
        return Envoy(address, lambda *_: said(next(rows)), credentials=secret)

    with serving(tmp_path, "ext-proc", {}) as found:
        knows = envoy(found["ext_proc"], own=True)
        assert (
            knows.request(PATH, infer()).status
            == yaml.safe_load((GOLDEN / "ext-proc.yaml").read_text())["ext_proc"]["blocked_status"]
        )
        assert knows.request(PATH, infer()).headers["demur-verdict"] == "ACCEPT"
        assert envoy(found["ext_proc"], own=False).request(PATH, infer()).failed
