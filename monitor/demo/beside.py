"""The processes of the proxy's tour: an inference server, demur beside it, and somebody's client program."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml

SERVERS = Path(__file__).parent / "servers"
START_SECONDS = 90.0
LOOK_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server, or demur in its place, is found; host:port."""

    grpc: str
    http: str


@contextmanager
def inference_server(programs: Path, folder: Path, weights: Path) -> Iterator[Address]:
    """MLServer with the model `digits`; `programs` is the environment's folder of executables."""
    http, grpc = _free_ports(2)
    home = folder / "mlserver"
    (home / "digits").mkdir(parents=True, exist_ok=True)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_endpoint": None}
    (home / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    parameters = {"uri": str(weights.resolve()), "version": "1"}
    model = {"name": "digits", "implementation": "digits_runtime.Digits", "parameters": parameters}
    (home / "digits/model-settings.json").write_text(json.dumps(model))
    log = home / "mlserver.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603  the environment's own program
            [str(programs / "mlserver"), "start", str(home)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(SERVERS), "OMP_NUM_THREADS": "1"},
        )
    try:
        _wait(process, f"http://127.0.0.1:{http}/v2/models/digits/ready", log)
        yield Address(f"127.0.0.1:{grpc}", f"127.0.0.1:{http}")
    finally:
        process.terminate()
        process.wait(30)


@dataclass(frozen=True, slots=True)
class Beside:
    """A demur in front of the server, and where its numbers are."""

    address: Address
    metrics: str
    audit: Path

    def counts(self) -> dict[str, int]:
        """Rows judged so far, by reason; "none" are the accepted ones."""
        with urlopen(self.metrics, timeout=10) as answer:  # noqa: S310  our own process
            page = answer.read().decode()
        found: dict[str, int] = {}
        for labels, value in re.findall(r"^demur_verdicts_total\{([^}]*)\} (\S+)$", page, re.MULTILINE):
            about = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if about["unit"] == "row":
                found[about["reason"]] = found.get(about["reason"], 0) + int(float(value))
        return found


@contextmanager
def demur_beside(folder: Path, server: Address, bundle: Path, mode: str) -> Iterator[Beside]:
    """`demur serve` with both proxies; its audit log starts anew."""
    (metrics,) = _free_ports(1)
    audit = folder / f"audit-{mode}-{time.strftime('%Y%m%d-%H%M%S')}"
    configuration = folder / f"demur-{mode}.yaml"
    document: Mapping[str, Any] = {
        "listen": ["127.0.0.1:0"],
        "metrics_listen": f"127.0.0.1:{metrics}",
        "monitors": [{"name": "digits", "bundle": str(bundle), "mode": mode}],
        "audit": {"directory": str(audit), "origin": "demur-demo-proxy"},
        "proxy": {
            "listen": "127.0.0.1:0",
            "upstream": server.grpc,
            "rest": {"listen": "127.0.0.1:0", "upstream": f"http://{server.http}"},
            "models": {"digits": {"monitor": "digits", "signals": {"logits": "logits", "features": "features"}}},
        },
    }
    configuration.write_text(yaml.safe_dump(document, sort_keys=False))
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(configuration), "--announce"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own interpreter
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise OSError(f"demur did not start; run `demur serve --config {configuration}` to see why")
        said = json.loads(line)
        yield Beside(Address(said["proxy"], said["proxy_rest"]), f"http://127.0.0.1:{metrics}/metrics", audit)
    finally:
        process.terminate()
        process.communicate(timeout=30)


@dataclass(frozen=True, slots=True)
class Printed:
    """What the client program printed: its lines, and its median milliseconds a request."""

    lines: tuple[str, ...]
    milliseconds: float


def client(
    programs: Path,
    protocol: str,
    address: Address,
    images: Path,
    rows: int,
    *,
    look: Callable[[], None] = lambda: None,
) -> Printed:
    """Run the client program; `look` is called now and then meanwhile. Raises: OSError when it fails."""
    where = address.grpc if protocol == "grpc" else address.http
    command = [str(programs / "python"), str(SERVERS / "client.py"), protocol, where, str(images), str(rows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    said: list[tuple[str, str]] = []
    reading = threading.Thread(target=lambda: said.append(process.communicate()))
    reading.start()
    while reading.is_alive():
        reading.join(LOOK_SECONDS)
        look()
    out, errors = said[0]
    if process.returncode:
        raise OSError(f"the client program failed:\n{errors}")
    return Printed(tuple(out.splitlines()), float(errors.split()[-1]))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _wait(process: subprocess.Popen[Any], url: str, log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urlopen(url, timeout=5):  # noqa: S310  our own process
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise OSError(f"the inference server did not start; {log} says why")
