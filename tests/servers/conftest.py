"""MLServer and KServe's ModelServer with real classifiers of digits, and demur between them and their clients."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import yaml

import demur
from demur.monitor.demo.model import load_digits
from tests.servers.processes import ENVIRONMENT, PYTHON, Process, free_ports
from tests.servers.runtimes.perceptron import Perceptron

BEHIND_SECONDS = 0.4  # answers that are only observed are judged after they went out
NOVELTY = {"promise": {"refuse_good_at_most": 0.05}}


@dataclass(frozen=True)
class Place:
    """Where a server is found; addresses as host:port."""

    grpc: str
    rest: str


@dataclass(frozen=True)
class Digits:
    """What the session trained: a folder with weights, scikit-learn's model, bundles, and images to send."""

    folder: Path
    images: Path  # 6 known digits, 3 unseen ones


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Digits:
    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    _weights(folder, *data.train)
    np.savez(folder / "images.npz", train=data.train[0], labels=data.train[1], calibration=data.calibration[0])
    subprocess.run(
        [PYTHON, str(Path(__file__).parent / "runtimes/train_sklearn.py"), str(folder)], check=True, env=ENVIRONMENT
    )
    perceptron = Perceptron(folder / "weights.npz")
    sets = {"reference": data.train, "calibration": data.calibration}
    tables = {name: perceptron(x) | {"label": y} for name, (x, y) in sets.items()}
    for table in tables.values():
        del table["predict"]
    policy = {
        "monitor": "digits",
        "signals": {"logits": 8, "features": 64},
        "scores": ["energy", {"mahalanobis": {"shrinkage": "ledoit_wolf"}}],
        "rules": [{"novel": {"when": "mahalanobis", **NOVELTY}}],
    }
    demur.fit(policy, **tables).save(folder / "digits.demur")
    with np.load(folder / "answers.npz") as answers:
        tables = {
            name: {"features": answers[key].astype(np.float32), "label": y}
            for name, key, (_, y) in (
                ("reference", "train", data.train),
                ("calibration", "calibration", data.calibration),
            )
        }
    policy = {
        "monitor": "forest",
        "signals": {"features": 8},
        "scores": [{"knn": {"k": 5, "bank": 400}}],
        "rules": [{"novel": {"when": "knn", **NOVELTY}}],
    }
    demur.fit(policy, **tables).save(folder / "forest.demur")
    np.save(folder / "few.npy", np.concatenate([data.test[0][:6], data.novel[0][:3]]))
    return Digits(folder, folder / "few.npy")


def _weights(folder: Path, images: Any, labels: Any) -> None:
    import warnings

    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((64,), alpha=1e-3, max_iter=200, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops at max_iter by design
        model.fit(images, labels)
    (w1, w2), (b1, b2) = model.coefs_, model.intercepts_
    np.savez(folder / "weights.npz", w1=w1, b1=b1, w2=w2, b2=b2)


@pytest.fixture(scope="session")
def mlserver(digits) -> Iterator[Place]:
    """Models `digits` and `plain` (the perceptron) and `forest` (scikit-learn's own runtime)."""
    folder = digits.folder / "mlserver"
    http, grpc = free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    runtimes = {
        "digits": ("digits_mlserver.Digits", "weights.npz"),
        "plain": ("digits_mlserver.Digits", "weights.npz"),
        "forest": ("mlserver_sklearn.SKLearnModel", "model.joblib"),
    }
    for name, (runtime, file) in runtimes.items():
        (folder / name).mkdir()
        model = {
            "name": name,
            "implementation": runtime,
            "parameters": {"uri": str(digits.folder / file), "version": "v1"},
        }
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    process = Process([str(PYTHON.parent / "mlserver"), "start", str(folder)], folder, "mlserver")
    process.wait_for(f"http://127.0.0.1:{http}/v2/health/ready")
    yield Place(f"127.0.0.1:{grpc}", f"127.0.0.1:{http}")
    process.close()


@pytest.fixture(scope="session")
def kserve(digits) -> Iterator[Place]:
    """Models `digits` and `plain`, both the perceptron."""
    http, grpc = free_ports(2)
    command = [
        str(PYTHON),
        str(Path(__file__).parent / "runtimes/digits_kserve.py"),
        str(digits.folder / "weights.npz"),
    ]
    process = Process([*command, f"--http_port={http}", f"--grpc_port={grpc}"], digits.folder, "kserve")
    process.wait_for(f"http://127.0.0.1:{http}/v2/health/ready")
    yield Place(f"127.0.0.1:{grpc}", f"127.0.0.1:{http}")
    process.close()


class Demur:
    """A `demur serve` in front of one server."""

    def __init__(self, digits: Digits, server: Place, *, name: str, mode: str = "observe", **proxy: Any) -> None:
        (metrics,) = free_ports(1)
        self._metrics = f"http://127.0.0.1:{metrics}/metrics"
        folder = digits.folder / name
        folder.mkdir()
        mapped = {"monitor": "digits", "signals": {"logits": "logits", "features": "features"}}
        forest = {"monitor": "forest", "signals": {"features": "predict_proba"}, "default_outputs": ["predict"]}
        document = {
            "listen": ["127.0.0.1:0"],
            "metrics_listen": f"127.0.0.1:{metrics}",
            "monitors": [
                {"name": n, "bundle": str(digits.folder / f"{n}.demur"), "mode": mode} for n in ("digits", "forest")
            ],
            "audit": {"directory": str(folder / "audit"), "origin": name},
            "proxy": {
                "listen": "127.0.0.1:0",
                "upstream": server.grpc,
                "rest": {"listen": "127.0.0.1:0", "upstream": f"http://{server.rest}"},
                "models": {"digits": mapped, "forest": forest},
                **proxy,
            },
        }
        (folder / "demur.yaml").write_text(yaml.safe_dump(document))
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "demur.monitor.cli.main",
                "serve",
                "--config",
                str(folder / "demur.yaml"),
                "--announce",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        self.place = Place(said["proxy"], said["proxy_rest"])
        self.audit = folder / "audit"

    def judged(self) -> dict[str, int]:
        """Rows judged so far by monitor and decision, from the metrics endpoint."""
        sleep(BEHIND_SECONDS)
        with urlopen(self._metrics, timeout=10) as answer:  # noqa: S310  our own process
            text = answer.read().decode()
        counts: dict[str, int] = {}
        for labels, value in re.findall(r"^demur_verdicts_total\{([^}]*)\} (\S+)$", text, re.MULTILINE):
            found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            key = f"{found['monitor']} {found['decision']}"
            counts[key] = counts.get(key, 0) + int(float(value))
        return counts

    def counted(self, metric: str, **wanted: str) -> int:
        """The sum of a counter over all lines with these labels."""
        sleep(BEHIND_SECONDS)
        with urlopen(self._metrics, timeout=10) as answer:  # noqa: S310  our own process
            text = answer.read().decode()
        total = 0.0
        for labels, value in re.findall(rf"^{metric}\{{([^}}]*)\}} (\S+)$", text, re.MULTILINE):
            found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            total += float(value) if wanted.items() <= found.items() else 0
        return int(total)

    def close(self) -> None:
        """Drain and stop; again does nothing."""
        self._process.terminate()
        self._process.communicate(timeout=30)


@pytest.fixture(scope="session")
def beside_mlserver(digits, mlserver) -> Iterator[Demur]:
    found = Demur(digits, mlserver, name="beside-mlserver")
    yield found
    found.close()


@pytest.fixture(scope="session")
def beside_kserve(digits, kserve) -> Iterator[Demur]:
    found = Demur(digits, kserve, name="beside-kserve")
    yield found
    found.close()


@pytest.fixture
def pair(request) -> Callable[[str], tuple[Place, Demur]]:
    """A server by its name, and the demur beside it."""

    def found(server: str) -> tuple[Place, Demur]:
        return request.getfixturevalue(server), request.getfixturevalue(f"beside_{server}")

    return found


@pytest.fixture(scope="session")
def enforcing(digits, mlserver) -> Iterator[Demur]:
    found = Demur(digits, mlserver, name="enforcing", mode="enforce")
    yield found
    found.close()
