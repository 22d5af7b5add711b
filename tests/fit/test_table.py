"""The signals table: every format gives the same rows, and every defect is named."""

from __future__ import annotations

import shutil
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.monitor.errors import DemurError, InvalidObservation
from demur.monitor.fit.table import SignalsTable, TableError, load_table


def columns(rows: int = 23, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "logits": rng.normal(size=(rows, 4)).astype(np.float32),
        "features": rng.normal(size=(rows, 6)).astype(np.float32),
        "label": rng.integers(0, 4, rows),
        "group_id": rng.integers(0, 9, rows),
        "weight": rng.random(rows),
    }


def test_every_format_gives_the_same_table(tmp_path, write):
    expected = columns()
    table = load_table(write(tmp_path, expected))
    assert table.digest() == SignalsTable.from_arrays(**expected).digest()
    for name in ("logits", "features"):
        np.testing.assert_array_equal(table.arrays()[name], expected[name])
    np.testing.assert_array_equal(table.label, expected["label"])
    np.testing.assert_array_equal(table.weight, expected["weight"])
    assert table.source.startswith(str(tmp_path))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 5),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    integers=st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.float32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_digest_does_not_depend_on_the_file(write, rows, width, dtype, integers, seed):
    rng = np.random.default_rng(seed)
    made = {
        "logits": rng.normal(size=(rows, width)).astype(dtype),
        "label": rng.integers(0, 100, rows).astype(integers),
    }
    with tempfile.TemporaryDirectory() as folder:
        digest = load_table(write(Path(folder), made), {"logits": width}).digest()
    assert digest == SignalsTable.from_arrays(**made).digest()


def test_strings_survive(tmp_path, write_strings):
    made = columns() | {"group_id": np.array([f"image {i // 2} é" for i in range(23)]), "id": np.arange(23).astype(str)}
    table = load_table(write_strings(tmp_path, made))
    assert table.group_id[3] == "image 1 é"
    assert table.digest() == SignalsTable.from_arrays(**made).digest()
    assert table.grouping.count == 12


def test_digest_sees_every_part():
    made = columns()
    digests = {SignalsTable.from_arrays(**made).digest()}
    for name, array in made.items():
        changed = array.copy()
        changed[-1] = changed[-1] + 1
        digests.add(SignalsTable.from_arrays(**made | {name: changed}).digest())
    digests.add(
        SignalsTable.from_arrays(**{("renamed" if n == "features" else n): a for n, a in made.items()}).digest()
    )
    digests.add(SignalsTable.from_arrays(**made, head_weight=np.ones((4, 6), np.float32)).digest())
    assert len(digests) == len(made) + 3


def test_digest_ignores_order_of_columns_and_batches(monkeypatch):
    made = columns()
    whole = SignalsTable.from_arrays(**made).digest()
    monkeypatch.setattr("demur.monitor.fit.table.BATCH_ROWS", 5)
    assert SignalsTable.from_arrays(**dict(reversed(made.items()))).digest() == whole


def test_defaults():
    made = columns()
    table = SignalsTable.from_arrays(**made)
    np.testing.assert_array_equal(table.prediction, made["logits"].argmax(1))
    np.testing.assert_array_equal(table.loss, made["logits"].argmax(1) != made["label"])
    bare = SignalsTable.from_arrays(features=made["features"])
    assert (bare.prediction, bare.loss, bare.label, bare.grouping) == (None, None, None, None)
    forced = SignalsTable.from_arrays(**made, prediction=made["label"])
    assert forced.loss.sum() == 0
    assert SignalsTable.from_arrays(**made, loss=np.ones(23, bool)).loss.sum() == 23


def test_labels_may_be_whole_floats():
    table = SignalsTable.from_arrays(logits=np.zeros((3, 2), np.float32), label=[0.0, 1.0, 1.0])
    assert table.label.dtype == np.int64
    assert table.label.tolist() == [0, 1, 1]


def test_a_vector_is_a_signal_of_width_one():
    table = SignalsTable.from_columns({"token_logprobs": np.zeros(5, np.float32)}, {"token_logprobs": 1})
    assert table.signals["token_logprobs"].shape == (5, 1)


def test_batches_and_take():
    made = columns()
    table = SignalsTable.from_arrays(**made | {"features": made["features"].astype(np.float64)})
    parts = list(table.batches(10))
    assert [len(part) for part in parts] == [10, 10, 3]
    assert all(part.signals["features"].dtype == np.float32 for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.prediction for part in parts]), table.prediction)
    picked = table.take([5, 1, 7])
    np.testing.assert_array_equal(picked.label, made["label"][[5, 1, 7]])
    np.testing.assert_array_equal(picked.signals["logits"], made["logits"][[5, 1, 7]])
    mask = made["label"] == 2
    assert len(table.take(mask)) == mask.sum()
    assert np.shares_memory(table.take(np.arange(4, 9)).signals["logits"], made["logits"])
    for wrong in ([99], [-1], np.ones(3, bool), [0.5]):
        with pytest.raises(TableError, match=r"expected row"):
            table.take(wrong)


def test_row_hashes_find_equal_rows():
    made = columns()
    table = SignalsTable.from_arrays(**made)
    hashes = table.row_hashes()
    assert len(set(hashes.tolist())) == len(table)
    np.testing.assert_array_equal(table.take([4, 9]).row_hashes(), hashes[[4, 9]])
    wide = SignalsTable.from_arrays(**made | {"logits": made["logits"].astype(np.float64)})
    np.testing.assert_array_equal(wide.row_hashes(), hashes)
    zero, negative = (SignalsTable.from_arrays(logits=np.full((1, 2), value, np.float32)) for value in (0.0, -0.0))
    assert zero.row_hashes() == negative.row_hashes()


ONES = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("made", "signals", "message"),
    [
        ({"logit": ONES}, {"logits": 2}, r'logits: expected this signal, got columns logit; did you mean "logit"\?'),
        ({"logits": ONES}, {"logits": 8}, r"logits: expected shape \(N, 8\), got \(3, 2\)"),
        ({"logits": ONES.astype(int)}, None, r"logits: expected float32 .*, got int64; convert"),
        ({"logits": ONES[:, 0]}, {"logits": 2}, r"logits: expected shape \(N, 2\), got \(3,\)"),
        ({"logits": ONES[None]}, None, r"logits: expected shape \(N, width\), got \(1, 3, 2\)"),
        ({"logits": ONES, "label": np.zeros(2, int)}, None, r"label: expected 3 rows as in logits, got 2"),
        ({"logits": ONES, "lable": np.zeros(3, int)}, None, r'lable: .*did you mean "label"\?'),
        ({"logits": ONES, "labels": np.zeros(3, int)}, {"logits": 2}, r'labels: .*did you mean "label"\?'),
        ({"logits": ONES, "label": np.array([0.5, 1, 1])}, None, r"label: expected whole numbers, got 0.5 in row 0"),
        ({"logits": ONES, "label": np.array([0, np.nan, 1])}, None, r"label: expected whole numbers, got nan in row 1"),
        ({"logits": ONES, "label": np.array(["a", "b", "c"])}, None, r"label: expected integers .*, got <U1"),
        ({"logits": ONES, "label": np.array(["a", 1, None], object)}, None, r"label: .*got Python objects"),
        ({"logits": ONES, "loss": np.array([0, 2, 1])}, None, r"loss: expected numbers from 0 .* got 2"),
        ({"logits": ONES, "weight": np.array([1, -1, 1.0])}, None, r"weight: .*at least 0, got -1.0 in row 1"),
        ({"logits": ONES, "group_id": np.ones((3, 2), int)}, None, r"group_id: expected shape \(N,\)"),
        ({"logits": ONES[:0]}, None, r"logits: expected at least one row"),
        ({"label": np.zeros(3, int)}, None, r"expected at least one signal"),
        ({"logits": ONES, "head_weight": np.ones((3, 3), np.float32)}, None, r"head_weight: expected 2 on axis 0"),
        ({"logits": ONES, "head_bias": np.array([1, np.inf])}, None, r"head_bias: expected finite values"),
        ({"logits": [[1.0, 2.0], [1.0]]}, None, r"logits: expected an array, got list"),
    ],
)
def test_every_defect_is_named(made, signals, message):
    with pytest.raises(TableError, match=message):
        SignalsTable.from_columns(made, signals)


def test_table_errors_are_demur_errors():
    assert issubclass(TableError, InvalidObservation)
    assert issubclass(TableError, DemurError)


def test_columns_left_out(tmp_path, write_file):
    made = columns() | {"_index": np.arange(5), "timestamps": np.arange(23)}
    made.pop("features")
    table_columns = {name: array for name, array in made.items() if len(array) == 23}
    table = load_table(write_file(tmp_path, table_columns), {"logits": 4})
    assert table.widths == {"logits": 4}
    assert "timestamps" not in table.given


@pytest.mark.parametrize("name", ["missing.npz", "missing", "missing.parquet"])
def test_missing_file(tmp_path, name):
    with pytest.raises(TableError, match=r"no such file"):
        load_table(tmp_path / name)


@pytest.mark.parametrize("name", ["t.csv", "t", "t.npy", "t.pickle", "t.parqet"])
def test_unknown_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(TableError, match=r"expected a folder of \.npy, or one of \.npz"):
        load_table(tmp_path / name)


def test_empty_folder(tmp_path):
    with pytest.raises(TableError, match=r"expected a folder with one \.npy"):
        load_table(tmp_path)


def test_object_arrays_are_never_unpickled(tmp_path):
    evil = np.empty((2, 2), object)
    evil[:] = [[1.0, 2.0], [3.0, 4.0]]
    np.savez(tmp_path / "t.npz", logits=evil)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "logits.npy", evil)
    for path in (tmp_path / "t.npz", tmp_path / "folder"):
        with pytest.raises(TableError, match=r"logits"):
            load_table(path)


def test_nulls_and_ragged_lists(tmp_path):
    ragged = pa.table({"logits": pa.array([[1.0, 2.0], [1.0]]), "label": [0, 1]})
    nulls = pa.table({"logits": pa.array([[1.0, 2.0], [1.0, None]]), "label": [0, 1]})
    no_label = pa.table({"logits": pa.array([[1.0, 2.0], [1.0, 3.0]]), "label": [0, None]})
    for table, message in [(ragged, r"lists of one length"), (nulls, r"1 nulls"), (no_label, r"label: .*1 nulls")]:
        pq.write_table(table, tmp_path / "t.parquet")
        with pytest.raises(TableError, match=message):
            load_table(tmp_path / "t.parquet")


def test_size_is_checked_before_allocation(tmp_path):
    made = {"logits": np.zeros((4_000_000, 8), np.float32)}  # 128 MB that compress to 128 kB
    np.savez_compressed(tmp_path / "t.npz", **made)
    del made
    tracemalloc.start()
    with pytest.raises(TableError, match=r"logits: expected at most 1,000,000 bytes .* claims 128,000,128"):
        load_table(tmp_path / "t.npz", limit_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_what_does_not_fit_into_the_limit_is_mapped_from_disk(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50_000, 8))
    written = pa.table({"logits": pa.array(list(rows)), "label": np.arange(50_000)})
    pq.write_table(written, tmp_path / "t.parquet")
    with pa.ipc.new_stream(str(tmp_path / "t.arrows"), written.schema) as writer:
        writer.write_table(written, max_chunksize=4096)
    for name in ("t.parquet", "t.arrows"):
        roomy = load_table(tmp_path / name, limit_bytes=10_000_000)
        tracemalloc.start()
        tight = load_table(tmp_path / name, limit_bytes=1_200_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_500_000
        assert isinstance(tight.signals["logits"].base, np.memmap)
        assert tight.digest() == roomy.digest()
        np.testing.assert_array_equal(tight.signals["logits"], rows)
    with pytest.raises(TableError, match=r"logits: expected at most 1,000 bytes"):
        load_table(tmp_path / "t.parquet", limit_bytes=1_000)  # not even one batch


def test_a_disk_without_room_is_said(tmp_path, monkeypatch):
    pq.write_table(pa.table({"logits": pa.array([[0.0] * 8] * 50_000)}), tmp_path / "t.parquet")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(TableError, match=r"3,200,000 bytes fit neither into memory nor into"):
        load_table(tmp_path / "t.parquet", limit_bytes=1_000_000)


def test_a_folder_of_parquet_is_one_table_in_the_order_of_names(tmp_path):
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    for number, part in enumerate(np.split(rows, [7, 12])):
        pq.write_table(pa.table({"logits": pa.array(list(part))}), tmp_path / f"part-{number}.parquet")
    np.testing.assert_array_equal(load_table(tmp_path).signals["logits"], rows)
    pq.write_table(pa.table({"logits": pa.array([[1.0, 2.0, 3.0]])}), tmp_path / "part-9.parquet")
    with pytest.raises(TableError, match=r"expected float32 in every file, got float64"):
        load_table(tmp_path)
    pq.write_table(pa.table({"other": [1.0]}), tmp_path / "part-9.parquet")
    with pytest.raises(TableError, match=r"part-9.parquet: expected columns \['logits'\], got \['other'\]"):
        load_table(tmp_path)


def test_many_rows_of_a_mapped_table_stay_on_disk(tmp_path, monkeypatch):
    rows = np.random.default_rng(1).normal(size=(5000, 8)).astype(np.float32)
    np.save(tmp_path / "features.npy", rows)
    monkeypatch.setattr("demur.monitor.fit.picked.PICKED_BYTES", 1000)
    chosen = np.random.default_rng(2).permutation(5000)[:3000]
    table = load_table(tmp_path).take(chosen)
    assert not isinstance(table.signals["features"], np.ndarray)
    np.testing.assert_array_equal(np.concatenate([b.signals["features"] for b in table.batches(700)]), rows[chosen])
    again = table.take(np.arange(2999, -1, -1))
    np.testing.assert_array_equal(again.arrays()["features"], rows[chosen[::-1]])
    assert again.take(slice(0, 5)).digest() == table.take([2999, 2998, 2997, 2996, 2995]).digest()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_folder_is_mapped_not_read(tmp_path):
    rows = 50_000
    np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float32, (rows, 1000)).flush()  # 200 MB, sparse
    np.save(tmp_path / "label.npy", np.zeros(rows, np.int64))
    before = _resident_bytes()
    tracemalloc.start()
    table = load_table(tmp_path, {"features": 1000})
    first = next(table.batches(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == rows
    assert first.signals["features"].shape == (1000, 1000)
    assert peak < 12_000_000  # one batch of 4 MB and the labels
    assert _resident_bytes() - before < 60_000_000


def test_safetensors_are_mapped(tmp_path, write_file):
    made = columns()
    table = load_table(write_file(tmp_path, made))
    mapped = not table.signals["logits"].flags.writeable
    assert mapped == write_file.__name__.endswith("safetensors")


def test_bfloat16_is_named(tmp_path):
    header = b'{"logits":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    (tmp_path / "t.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    with pytest.raises(TableError, match=r"logits: expected one of F16, .*got BF16; convert"):
        load_table(tmp_path / "t.safetensors")


def test_masked_values_are_refused_by_name():
    logits = np.ma.masked_less(np.arange(8.0).reshape(4, 2), 2)
    with pytest.raises(TableError, match=r"arrays: logits: expected numbers, 2 of them are masked; fill them first"):
        SignalsTable.from_columns({"logits": logits})
    assert SignalsTable.from_columns({"logits": np.ma.array(logits.data)}).widths == {"logits": 2}
