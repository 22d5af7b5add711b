"""Generated Triton configurations, parsed by Triton's own message definitions."""

from __future__ import annotations

import json
import subprocess

import pytest

from demur.adapters.models.fuse import fuse
from demur.adapters.models.instrument import instrument
from demur.adapters.models.triton import write_repository
from tests.models.test_fuse import EXPORTS, fitted, pictures
from tests.servers.processes import PYTHON

pytestmark = pytest.mark.servers

PROGRAM = """
import json, sys
from pathlib import Path
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
found = {}
for path in Path(sys.argv[1]).glob("*/config.pbtxt"):
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    found[path.parent.name] = json_format.MessageToDict(config, preserving_proto_field_name=True)
print(json.dumps(found))
"""


@pytest.mark.parametrize("batch", [0, 8])
def test_tritons_own_messages_read_every_configuration(tmp_path, batch):
    made = instrument(EXPORTS / "cnn_softmax.onnx")
    policy = {
        "monitor": "guard",
        "scores": ["energy"],
        "rules": [{"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    write_repository(
        fuse(made.file, fitted(made, pictures, policy), map=made.signals), tmp_path, "digits", max_batch_size=batch
    )
    said = subprocess.run([PYTHON, "-c", PROGRAM, str(tmp_path)], check=True, capture_output=True, text=True).stdout
    configs = json.loads(said)
    assert sorted(configs) == ["digits", "digits_ensemble", "digits_guarded", "digits_monitor"]
    ensemble = configs["digits_ensemble"]
    assert ensemble["platform"] == "ensemble"
    assert [s["model_name"] for s in ensemble["ensemble_scheduling"]["step"]] == ["digits", "digits_monitor"]
    accept = next(o for o in configs["digits_guarded"]["output"] if o["name"] == "demur.accept")
    assert accept["data_type"] == "TYPE_BOOL"
    assert accept["dims"] == ["1"] if batch else ["-1"]
    assert all(c.get("max_batch_size", 0) == batch for c in configs.values())
