"""What a command reads is never written over, by whatever name; what it needs is made before it works."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from demur.monitor.bundle.signature import generate
from demur.monitor.cli.main import app
from demur.monitor.errors import ConfigurationError
from demur.monitor.outputs import check_outputs
from tests.docs.tables import walk


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"a")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "logits.npy").write_bytes(b"l")
    (tmp_path / "soft").symlink_to("a.npz")
    os.link("a.npz", "hard")
    (tmp_path / "linked").symlink_to("table")
    return tmp_path


@pytest.mark.parametrize("name", ["a.npz", "./a.npz", "table/../a.npz", "soft", "hard", "linked/../a.npz"])
@pytest.mark.parametrize("absolute", [False, True])
def test_an_input_is_known_by_every_name(home, name, absolute):
    output = home / name if absolute else name
    with pytest.raises(ConfigurationError, match=r"would overwrite a\.npz, which this command reads"):
        check_outputs([None, output], [None, "table", "a.npz"])
    assert (home / "a.npz").read_bytes() == b"a"


@pytest.mark.parametrize("name", ["table/logits.npy", "table/new/x.npz", "linked/other.npy"])
def test_nothing_is_written_into_a_folder_that_is_read(home, name):
    with pytest.raises(ConfigurationError, match=r"lies in table, which this command reads"):
        check_outputs([name], ["a.npz", "table"])
    assert [p.name for p in (home / "table").iterdir()] == ["logits.npy"]


def test_an_input_that_is_not_there_yet_is_known_too(home):
    with pytest.raises(ConfigurationError, match=r"missing.npz: would overwrite missing.npz"):
        check_outputs(["missing.npz"], ["./missing.npz"])


def test_links_in_a_circle_are_no_file(home):
    (home / "one").symlink_to("two")
    (home / "two").symlink_to("one")
    check_outputs(["one"], ["a.npz"])


def test_two_outputs_are_two_files(home):
    with pytest.raises(ConfigurationError, match=r"x/\.\./b\.json: would overwrite b\.json, which this command writes"):
        check_outputs(["b.json", "x/../b.json"], ["a.npz"])
    assert not (home / "x").exists()


def test_missing_folders_are_made_once_everything_is_right(home):
    check_outputs(["new/deep/b.npz", "tab", "c.npz"], ["a.npz", "grpc://host:1", "table"])
    assert [(home / name).exists() for name in ("new/deep", "tab", "c.npz")] == [True, False, False]
    with pytest.raises(ConfigurationError, match=r"would overwrite"):
        check_outputs(["other/b.npz", "a.npz"], ["a.npz"])
    assert not (home / "other").exists()


def test_a_folder_that_cannot_be_made_is_said_before_the_work(home):
    with pytest.raises(
        ConfigurationError, match=r"a\.npz/b\.npz: its folder cannot be made \(.+\); choose another place"
    ):
        check_outputs(["a.npz/b.npz"], ["table"])
    check_outputs([None], [None, "a.npz"])


FILES = ("a.npz", "b.npz", "c.npz", "m.onnx", "m.demur", "p.yaml", "k.key", "seen.txt")
TABLES = ["--reference", "a.npz", "--calibration", "b.npz"]
READS = {
    "instrument": [(["m.onnx", "-o"], ["m.onnx"])],
    "collect": [(["m.onnx", "a.npz"], ["a.npz"]), (["m.npz", "a.npz", "--map", "b.npz"], ["b.npz"])],
    "fit": [(["p.yaml", *TABLES, "--sign", "k.key", "-o"], ["p.yaml", "a.npz", "b.npz", "k.key"])],
    "calibrate": [(["m.demur", "--config", "p.yaml", "--calibration", "b.npz", "-o"], ["m.demur", "p.yaml", "b.npz"])],
    "fuse": [(["m.onnx", "m.demur", "--map", "p.yaml", "-o"], ["m.onnx", "m.demur", "p.yaml"])],
    "assess": [(["m.demur", "a.npz", "-o"], ["m.demur", "a.npz"])],
    "evaluate": [
        (["m.demur", "a.html", "--ood", "x=b.html", "--shifted", "y=c.html", "--html"], ["a.html", "b.html", "c.html"]),
        (["m.demur", "a.json", "--json"], ["a.json"]),
    ],
    "hallucinations": [
        (
            ["m.demur", "a.npz", "b.npz", "--confirmed", "seen.txt", "--review"],
            ["m.demur", "a.npz", "b.npz", "seen.txt"],
        ),
        (["m.demur", "a.npz", "b.npz", "--json"], ["a.npz", "b.npz"]),
    ],
    "interval": [(["m.demur", "a.npz", "-o"], ["m.demur", "a.npz"])],
    "perturb": [(["a.npz", "--as", "features", "--how", "gaussian_noise", "-o"], ["a.npz"])],
    "curate labels": [(["a.npz", "-o"], ["a.npz"])],
    "curate contamination": [(["a.npz", "-o"], ["a.npz"])],
    "curate responses": [(["a.npz", "--response", "x", "-o"], ["a.npz"])],
    "curate anomalies": [(["a.npz", "--normals", "b.npz", "--known", "c.npz", "-o"], ["a.npz", "b.npz", "c.npz"])],
    "curate outliers": [(["a.npz", "--size", "3", "-o"], ["a.npz"])],
    "curate bank": [(["a.npz", "--size", "3", "-o"], ["a.npz"])],
    "bundle sign": [(["m.demur", "--key", "k.key", "-o"], ["k.key"])],
    "audit export": [(["folder", "-o"], ["folder/manifest.json"])],
    "bundle pack": [(["folder", "-o"], ["folder", "folder/manifest.json"])],
}
KEYS = {"audit keygen", "bundle keygen"}  # never written over at all
NOTHING = {"bench", "bundle unpack", "demo"}  # read no file, or write only into a new folder
CASES = [(command, words, target) for command, runs in READS.items() for words, targets in runs for target in targets]


@pytest.mark.parametrize(("command", "words", "target"), CASES)
def test_no_command_writes_over_what_it_reads(home, command, words, target):
    """Nothing is read either: none of these files is what its name says."""
    (home / "folder").mkdir()
    for name in (*FILES, "a.html", "b.html", "c.html", "a.json", "m.npz", "folder/manifest.json"):
        (home / name).write_bytes(b"kept")
    answer = CliRunner().invoke(app, [*command.split(), *words, target])
    assert isinstance(answer.exception, ConfigurationError), answer.output
    assert re.search(
        rf"{re.escape(target)}: (would overwrite|lies in) \S+, which this command reads", str(answer.exception)
    )
    assert (home / target).is_dir() or (home / target).read_bytes() == b"kept"


def test_every_command_that_writes_a_file_is_asked():
    writing = {
        path.removeprefix("demur ")
        for path, command in walk()
        if {p.name for p in command.params} & {"output", "html", "review", "triton"}
    }
    assert writing <= {*READS, *KEYS, *NOTHING}
    assert set(READS) - writing == {"collect"}  # its outputs are arguments


def test_a_model_is_not_written_over_by_a_repository_for_triton(home):
    model = home / "repo" / "net" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"kept")
    answer = CliRunner().invoke(app, ["fuse", str(model), "m.demur", "--triton", "repo", "--name", "net"])
    assert "which this command reads" in str(answer.exception)
    assert model.read_bytes() == b"kept"


def test_missing_folders_are_made_for_whatever_is_written(home, bundle, sample):
    bundle.save("m.demur")
    np.savez("t.npz", **sample(60, 3))
    runs = [
        (["assess", "m.demur", "t.npz", "-o"], "n/a/v.jsonl"),
        (["perturb", "t.npz", "--as", "features", "--how", "gaussian_noise", "-o"], "n/p/s.npz"),
        (["evaluate", "m.demur", "t.npz", "--bootstrap", "0", "--html"], "n/e/r.html"),
        (["evaluate", "m.demur", "t.npz", "--bootstrap", "0", "--json"], "n/j/r.json"),
        (["curate", "bank", "t.npz", "--size", "5", "-o"], "n/c/bank.json"),
        (["bundle", "sign", "m.demur", "--key", "key", "-o"], "n/s/m.demur"),
    ]
    generate(home / "key")
    for words, output in runs:
        answer = CliRunner().invoke(app, [*words, output])
        assert answer.exit_code == 0, (words, answer.exception)
        assert (home / output).stat().st_size > 0
