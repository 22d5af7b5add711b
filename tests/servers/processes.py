"""Servers and clients as processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

HERE = Path(__file__).parent
PYTHON = HERE.parent.parent / ".venv-servers/bin/python"
START_SECONDS = 60.0
# One thread each: two cores serve everything here.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE / "runtimes"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Process:
    """A server; `close` ends it, and what it wrote is kept for whoever asks why it did not start."""

    def __init__(self, command: Sequence[str], folder: Path, name: str) -> None:
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                list(command), cwd=folder, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_for(self, url: str) -> None:
        """Until `url` answers 200. Raises: RuntimeError with the process's own words."""
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            if self._process.poll() is not None:
                break
            try:
                with urlopen(url, timeout=5) as answer:  # noqa: S310  our own process
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"{url} never answered 200:\n{self.said}")

    @property
    def said(self) -> str:
        """Standard output and error so far."""
        return self._log.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def program(name: str, *arguments: str) -> str:
    """What a client program prints."""
    done = subprocess.run(
        [str(PYTHON), str(HERE / "programs" / f"{name}.py"), *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def both(name: str, addresses: Sequence[str], *arguments: str) -> list[str]:
    """What one program prints at each address; they run side by side."""
    with ThreadPoolExecutor(len(addresses)) as pool:
        return list(pool.map(lambda address: program(name, address, *arguments), addresses))
