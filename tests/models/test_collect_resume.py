"""Work that is cut off goes on where it stopped, and ends in the same bytes; changed work is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from demur.adapters.models.collect import collect, plan
from demur.adapters.models.collect import parts as parts_module
from demur.adapters.models.collect.pixels import Pixels
from demur.adapters.models.collect.table_writer import TableWriter
from demur.monitor.errors import ConfigurationError, DemurError
from demur.monitor.fit.table import load_table
from tests.models import small

ROWS = 400
FOLDER = Path(".out.npz.collect")
MAP = {"signals": {"logits": "logits", "features": "features"}}

# A process that collects slowly enough to be killed: it writes a part after every batch.
PROGRAM = """
import sys, time
from demur.adapters.models.collect import collect, parts
parts.FLUSH_SECONDS = 0.0
outputs = sys.argv[1:]
collect("model.onnx", "data.npz", outputs, split="0.6/0.4" if len(outputs) > 1 else None, batch=7, shuffle=True,
        tick=lambda *_: time.sleep(0.03))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(small.graph())
    np.savez("data.npz", image=small.inputs(ROWS), label=np.arange(ROWS) % 3, group_id=np.arange(ROWS) // 4)
    Path("map.yaml").write_text(yaml.safe_dump(MAP))
    return tmp_path


def parts_of(folder):
    return sorted(folder.glob("0*.npz"))


@pytest.mark.parametrize("outputs", [["out.parquet"], ["out.npz", "cal.npz"]])
def test_killed_in_the_middle_it_ends_in_the_same_bytes(here, outputs):
    targets, folder = [Path(o) for o in outputs], Path(f".{outputs[0]}.collect")
    same = {"split": "0.6/0.4" if len(outputs) > 1 else None, "batch": 7, "shuffle": True}
    collect("model.onnx", "data.npz", outputs, **same)
    wanted = contents(targets)
    for path in targets:
        path.unlink()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *outputs])
    end = time.monotonic() + 30
    while len(parts_of(folder)) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    assert len(parts_of(folder)) >= 5
    assert not any(path.exists() for path in targets)
    assert 0 < collect("model.onnx", "data.npz", outputs, **same).resumed < ROWS
    assert contents(targets) == wanted
    assert not folder.exists()


def contents(paths):
    return [path.read_bytes() for path in paths]


class CutError(Exception):
    pass


def half(monkeypatch, **more):
    """A run that stops after 80 inputs, a part for each batch of 40."""
    monkeypatch.setattr(parts_module, "FLUSH_SECONDS", 0.0)

    def tick(_stage, done, _total):
        if done >= 80:
            raise CutError

    with pytest.raises(CutError):
        run(tick=tick, **more)
    assert len(parts_of(FOLDER)) == 2


def run(dataset="data.npz", **more):
    return collect("model.onnx", dataset, "out.npz", **{"map": "map.yaml", "batch": 40, **more})


def test_an_interrupted_run_keeps_every_finished_batch(here, monkeypatch):
    half(monkeypatch)
    assert run().resumed == 80
    collect("model.onnx", "data.npz", "other.npz", map="map.yaml", batch=40)
    assert Path("out.npz").read_bytes() == Path("other.npz").read_bytes()


def new_version(monkeypatch):
    monkeypatch.setattr(plan, "__version__", "9.9.9")


def new_model(_):
    Path("model.onnx").write_bytes(small.graph(softmax=True))


def new_map(_):
    Path("map.yaml").write_text(yaml.safe_dump({**MAP, "kinds": {"logits": "logits"}}))


def new_data(_):
    np.savez("data.npz", image=small.inputs(ROWS, seed=2), label=np.arange(ROWS) % 3)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (new_version, {}, r"another demur \("),
        (new_model, {}, r"another model \(sha256"),
        (new_map, {}, r"another map \("),
        (new_data, {}, r"another dataset \("),
        (None, {"batch": 20}, r"another options \(batch: 40 then, 20 now\)"),
        (None, {"shuffle": True}, r"shuffle: False then, True now"),
        (None, {"limit": 200}, r"limit: None then, 200 now"),
        (None, {"pixels": Pixels(layout="nhwc")}, r"another pixels \(layout"),
    ],
)
def test_changed_work_is_not_mixed(here, monkeypatch, change, options, words):
    half(monkeypatch)
    if change is not None:
        change(monkeypatch)
    with pytest.raises(ConfigurationError, match=words) as refused:
        run(**options)
    assert "--restart" in str(refused.value)
    assert len(parts_of(FOLDER)) == 2  # nothing is thrown away unasked
    assert run(**options, restart=True).resumed == 0
    collect("model.onnx", "data.npz", "fresh.npz", **{"map": "map.yaml", "batch": 40, **options})
    assert Path("out.npz").read_bytes() == Path("fresh.npz").read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gap", "stray"])
def test_damaged_parts_are_done_again(here, monkeypatch, damage):
    half(monkeypatch)
    first, second = parts_of(FOLDER)
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flip":
        second.write_bytes(content)
    elif damage == "cut":
        second.write_bytes(content[:100])
    elif damage == "empty":
        second.write_bytes(b"")
    elif damage == "gap":
        first.unlink()
    else:
        (FOLDER / f".{second.name}.part").write_bytes(b"half")
    assert run().resumed == {"gap": 0, "stray": 80}.get(damage, 40)
    collect("model.onnx", "data.npz", "fresh.npz", map="map.yaml", batch=40)
    assert Path("out.npz").read_bytes() == Path("fresh.npz").read_bytes()


def test_two_processes_do_not_share_a_folder(here, monkeypatch):
    def tick(_stage, done, _total):
        if done:
            run()

    with pytest.raises(DemurError, match="another process is at work"):
        run(tick=tick)


def test_the_size_of_parts_leaves_no_trace(here, monkeypatch):
    for number, (size, seconds) in enumerate([(1 << 30, 100.0), (1, 100.0), (9_000, 100.0)]):
        monkeypatch.setattr(parts_module, "FLUSH_BYTES", size)
        monkeypatch.setattr(parts_module, "FLUSH_SECONDS", seconds)
        for suffix in (".npz", ".parquet"):
            collect("model.onnx", "data.npz", f"{number}{suffix}", batch=16)
    for suffix in (".npz", ".parquet"):
        assert len({Path(f"{n}{suffix}").read_bytes() for n in range(3)}) == 1


def square():
    """Features as wide as the batch is long: what a model does whose outputs have a free last axis."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Transpose", ["image"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["image", "turned"], ["features"]),
    ]
    value = lambda name, width: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])  # noqa: E731
    graph = helper.make_graph(nodes, "square", [value("image", small.INPUT)], [value("features", "M")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_a_signal_whose_width_changes_is_refused_before_it_is_written(here, monkeypatch, seconds):
    monkeypatch.setattr(parts_module, "FLUSH_SECONDS", seconds)
    Path("square.onnx").write_bytes(square())
    for _ in range(2):  # the second run continues the first, and finds the same
        with pytest.raises(DemurError, match=r"features \(N, 30\).* got features \(N, 10\)"):
            collect("square.onnx", "data.npz", "t.npz", batch=30)
    assert not Path("t.npz").exists()


def test_memory_does_not_grow_with_the_rows(here):
    """Four times the rows, from a mapped folder to Parquet: the peak grows by far less than the table."""
    program = """
import sys, resource
import numpy as np
from demur.adapters.models.collect import collect, parts
parts.FLUSH_BYTES = 4 << 20
collect("wide.onnx", sys.argv[1], sys.argv[1] + ".parquet", batch=512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    Path("wide.onnx").write_bytes(wide())
    peaks, sizes = [], []
    for rows in (12_000, 48_000):
        folder = Path(f"rows{rows}")
        folder.mkdir()
        np.save(folder / "image.npy", np.zeros((rows, small.INPUT), np.float32))
        done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
        sizes.append(rows * 512 * 4)
    assert sizes[1] - sizes[0] > 70e6
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 2


def wide():
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(0).normal(size=(small.INPUT, 512)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["image", "w"], ["features"])]
    value = lambda name, width: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])  # noqa: E731
    graph = helper.make_graph(
        nodes, "wide", [value("image", small.INPUT)], [value("features", 512)], [numpy_helper.from_array(table, "w")]
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.mark.parametrize("path", ["t.npz", "t.parquet", "t"])
def test_a_writer_appends_batches(here, path, monkeypatch):
    monkeypatch.setattr(parts_module, "FLUSH_BYTES", 500)
    rng = np.random.default_rng(0)
    whole = {
        "features": rng.normal(size=(40, 6)),
        "label": np.arange(40),
        "id": np.array([f"r{'x' * i}" for i in range(40)]),
    }
    with TableWriter(path) as table:
        for rows in (slice(0, 7), slice(7, 30), slice(30, 40)):
            table.append({name: array[rows] for name, array in whole.items()})
        assert len(table) == 40
        if path != "t.parquet":
            table.head({"head_weight": np.ones((2, 6), np.float32), "head_bias": np.zeros(2, np.float32)})
    found = load_table(path)
    np.testing.assert_array_equal(found.signals["features"], whole["features"].astype(np.float32))
    np.testing.assert_array_equal(found.label, whole["label"])
    assert found.id.tolist() == whole["id"].tolist()
    assert (found.head_weight is not None) == (path != "t.parquet")
    assert not [p for p in Path().iterdir() if p.name.startswith(".t")]


def test_a_writer_keeps_rows_that_their_owner_writes_over(here):
    logits, label = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    with TableWriter("t.npz") as table:
        for number in range(3):
            logits[:], label[:] = number, number
            table.append({"logits": logits, "label": label})
    found = load_table("t.npz")
    assert found.label.tolist() == found.signals["logits"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_writer_that_fails_leaves_nothing(here):
    before = set(here.iterdir())

    def fails():
        with TableWriter("t.npz") as table:
            table.append({"logits": np.zeros((3, 2))})
            raise CutError

    with pytest.raises(CutError):
        fails()
    with pytest.raises(DemurError, match="no rows"), TableWriter("t.npz"):
        pass
    assert set(here.iterdir()) == before


def test_a_writer_refuses_other_columns_than_at_first(here):
    with TableWriter("t.npz") as table:
        table.append({"logits": np.zeros((3, 2))})
        for other in ({"logits": np.zeros((3, 4))}, {"features": np.zeros((3, 2))}):
            with pytest.raises(DemurError, match="columns of the first batch"):
                table.append(other)
    assert len(load_table("t.npz")) == 3
