"""Truncated or corrupted table files: a clear error, or the whole table; never a crash, never a part."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.monitor.fit.table import TableError, load_table

ROWS = 23
RNG = np.random.default_rng(3)
COLUMNS = {
    "logits": RNG.normal(size=(ROWS, 4)).astype(np.float32),
    "label": RNG.integers(0, 4, ROWS),
}
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def intact(write) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), COLUMNS)
        return path.name, path.read_bytes()


def load_bytes(name: str, content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        table = load_table(path, {"logits": 4}, limit_bytes=1 << 20)
        table.digest()
        return table


@FUZZ
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(write_file, share):
    name, content = intact(write_file)
    with pytest.raises(TableError, match=r"t\.|lists\."):
        load_bytes(name, content[: int(share * len(content))])


@settings(FUZZ, max_examples=150)
@given(data=st.data())
def test_flipped_bits_never_give_a_part(write_file, data):
    name, content = intact(write_file)
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        table = load_bytes(name, bytes(damaged))
    except TableError as error:
        message = str(error)
    else:
        message = f"{name}: {len(table)} rows of {table.widths}"
        assert message == f"{name}: {ROWS} rows of {{'logits': 4}}"
    assert name in message


def test_trailing_bytes_of_npy(tmp_path):
    np.save(tmp_path / "logits.npy", COLUMNS["logits"])
    with (tmp_path / "logits.npy").open("ab") as stream:
        stream.write(b"\0\0\0\0")
    with pytest.raises(TableError, match=r"logits\.npy: expected 496 bytes as its header says, got 500"):
        load_table(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 60, 127, 128, 200, 495])
def test_truncated_npy(tmp_path, keep):
    np.save(tmp_path / "logits.npy", COLUMNS["logits"])
    content = (tmp_path / "logits.npy").read_bytes()
    (tmp_path / "logits.npy").write_bytes(content[:keep])
    with pytest.raises(TableError, match=r"logits"):
        load_table(tmp_path)


def test_stream_cut_between_messages(tmp_path):
    batch = pa.record_batch({"logits": pa.array([[1.0, 2.0]] * 8)})
    ends = []
    with pa.OSFile(str(tmp_path / "t.arrows"), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(3):
            writer.write_batch(batch)
            ends.append(sink.tell())
    content = (tmp_path / "t.arrows").read_bytes()
    assert len(load_table(tmp_path / "t.arrows")) == 24
    (tmp_path / "t.arrows").write_bytes(content[: ends[1]])
    with pytest.raises(TableError, match=r"end marker"):
        load_table(tmp_path / "t.arrows")


def test_stream_ended_early(tmp_path):
    batch = pa.record_batch({"logits": pa.array([[1.0, 2.0]] * 8)})
    with pa.ipc.new_stream(str(tmp_path / "t.arrows"), batch.schema) as writer:
        writer.write_batch(batch)
    content = (tmp_path / "t.arrows").read_bytes()
    (tmp_path / "t.arrows").write_bytes(content * 2)
    with pytest.raises(TableError, match=r"expected a stream of"):
        load_table(tmp_path / "t.arrows")


def test_a_claim_of_two_gigabytes(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (134217728, 4), }"
    npy = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "logits.npy").write_bytes(npy + b"\0" * 64)
    with pytest.raises(TableError, match=r"logits: the file is damaged, truncated"):
        load_table(tmp_path / "folder")


@pytest.mark.parametrize("suffix", ["npz", "parquet", "arrow", "arrows", "feather", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0", b"not a table at all", b"PAR1" * 4, b"ARROW1\0\0" * 4, b"\xff" * 64])
def test_foreign_bytes(tmp_path, suffix, content):
    (tmp_path / f"t.{suffix}").write_bytes(content)
    with pytest.raises(TableError, match=rf"t\.{suffix}"):
        load_table(tmp_path / f"t.{suffix}")


def test_a_footer_that_hides_batches(tmp_path):
    """Every single flipped bit of the footer: pyarrow's own file reader returns a part for some of them."""
    batch = pa.record_batch({"logits": pa.array([[1.0, 2.0]] * 4)})
    path = tmp_path / "t.arrow"
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        for _ in range(3):
            writer.write_batch(batch)
    content = path.read_bytes()
    footer = int.from_bytes(content[-10:-6], "little") + 10
    parts = 0
    for place in range(len(content) - footer, len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with contextlib.suppress(pa.ArrowException, OSError):
                parts += pa.ipc.open_file(pa.BufferReader(bytes(damaged))).read_all().num_rows < 12
            try:
                rows = len(load_table(path))
            except TableError:
                rows = 12
            assert rows == 12
    assert parts > 0
