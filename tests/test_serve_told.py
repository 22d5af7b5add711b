"""What `demur doctor` and `demur serve` tell a person about the proxies of a configuration."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from demur.monitor.cli.main import app

MAPPED = {"monitor": "toy", "signals": {"logits": "scores"}}


@pytest.fixture
def home(tmp_path, bundle):
    bundle.save(tmp_path / "toy.demur")
    return tmp_path


def configuration(home: Path, model: dict) -> Path:
    proxy = {
        "listen": "127.0.0.1:0",
        "upstream": "127.0.0.1:1",
        "rest": {"listen": "127.0.0.1:0", "upstream": "http://127.0.0.1:2"},
        "models": {"classifier": model},
    }
    monitors = [{"name": "toy", "bundle": str(home / "toy.demur")}]
    path = home / "demur.yaml"
    path.write_text(yaml.safe_dump({"listen": ["127.0.0.1:0"], "monitors": monitors, "proxy": proxy}))
    return path


def doctor(path: Path):
    return CliRunner().invoke(app, ["doctor", "--config", str(path)], env={"COLUMNS": "300"})


def test_the_doctor_names_the_outputs_that_a_proxied_model_is_judged_from(home):
    told = doctor(configuration(home, MAPPED))
    assert told.exit_code == 0, told.output
    assert re.search(r"good +proxy model classifier: judged by toy, from the outputs scores, features", told.output)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"monitor": "toy", "signals": {"logit": "scores"}}, "no such signal: logit"),
        ({"monitor": "toy", "map": "gone.yaml"}, "gone.yaml: cannot be read"),
        ({"monitor": "toy", "on_abstain": "replace"}, "on_abstain: replace needs"),
    ],
)
def test_the_doctor_finds_what_serve_would_refuse(home, model, said):
    told = doctor(configuration(home, model))
    assert told.exit_code == 3
    assert said in told.output


def pointed(home: Path, key: str, target: str) -> str:
    """What the doctor says when `proxy` or `proxy.rest` forwards to this target."""
    path = configuration(home, MAPPED)
    document = yaml.safe_load(path.read_text())
    (document["proxy"] if key == "proxy.upstream" else document["proxy"]["rest"])["upstream"] = target
    path.write_text(yaml.safe_dump(document))
    told = doctor(path)
    assert told.exit_code == 0, told.output
    return next(line for line in told.output.splitlines() if f"{key}:" in line)


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("proxy.upstream", "127.0.0.1:{}"),
        ("proxy.upstream", "dns:///127.0.0.1:{}"),
        ("proxy.rest.upstream", "http://127.0.0.1:{}"),
    ],
)
def test_the_doctor_says_whether_anything_listens_upstream(home, key, form):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        target = form.format(server.getsockname()[1])
        assert pointed(home, key, target).startswith("good")
    assert re.match(rf"note +{key}: nothing answers at .* now", pointed(home, key, target))


def test_the_doctor_finds_a_socket_of_the_file_system(home):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(home / "up.sock"))
        server.listen()
        assert pointed(home, "proxy.upstream", f"unix:{home / 'up.sock'}").startswith("good")
    assert pointed(home, "proxy.upstream", f"unix:{home / 'gone.sock'}").startswith("note")


def test_serve_prints_every_address_that_clients_are_pointed_at(home):
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(configuration(home, MAPPED))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(3)]
        finally:
            process.kill()
    assert re.fullmatch(r"serving toy on 127\.0\.0\.1:[1-9]\d*\n", lines[0])
    assert re.fullmatch(r"proxy \(gRPC\) on 127\.0\.0\.1:[1-9]\d*, before 127\.0\.0\.1:1\n", lines[1])
    assert re.fullmatch(r"proxy \(REST\) on 127\.0\.0\.1:[1-9]\d*, before http://127\.0\.0\.1:2\n", lines[2])


def test_serve_says_which_monitors_it_cannot_serve_yet(home):
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--listen", "127.0.0.1:0"]
    command += ["--bundle", str(home / "toy.demur"), "--bundle", str(home / "gone.demur")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(2)]
        finally:
            process.kill()
    assert lines[0].startswith("serving toy on 127.0.0.1:")
    assert lines[1] == "not ready: gone; served as soon as a good bundle is at its path\n"
