"""Pages of the documentation: their fenced blocks, and how to run them one after another in a folder."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from demur.monitor.auto.run import PENDING
from demur.monitor.auto.selection import filled
from demur.monitor.cli.main import app
from demur.monitor.config.document import parse, read_yaml
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.config.server import ServerConfig
from demur.monitor.config.signal_map import SignalMapConfig

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_TORCH = "# with PyTorch\n"
MODELS = {"monitor.yaml": PolicyConfig, "demur.yaml": ServerConfig}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins on."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


@dataclass
class Reader:
    """Does what a page says, from top to bottom, in the current folder. Python blocks share their names."""

    names: dict[str, Any] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def python(self, block: Block) -> None:
        if block.text.startswith(WITH_TORCH) and find_spec("torch") is None:
            return  # tests/clients runs such pages where PyTorch is
        with redirect_stdout(io.StringIO()):
            exec(compile("\n" * block.line + block.text, "page", "exec"), self.names)  # noqa: S102 - our own pages

    def yaml(self, block: Block) -> None:
        """A block that begins with its file's name is written there, and read by that file's model."""
        name = block.text.partition("\n")[0].removeprefix("# ")
        Path(name).write_text(block.text)
        document = read_yaml(Path(name))
        if document.get("scores") == "auto":  # what `--auto` completes
            document = filled(document, PENDING)
        parse(SignalMapConfig if name.endswith(".signals.yaml") else MODELS[name], document, name)

    def console(self, block: Block) -> None:
        for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            said = self._run(shlex.split(command))
            expected = ".*".join(re.escape(part.strip()) for part in _flat(shown).split("…"))
            assert re.search(expected, said), f"line {block.line}: {command}\nshown: {shown}\nsaid: {said}"

    def _run(self, words: list[str]) -> str:
        if words[0] != "demur":
            return subprocess.run(words, check=True, capture_output=True, text=True).stdout
        if words[-1] == "&":
            return self._start(words[1:-1])
        answer = CliRunner().invoke(app, words[1:], env={"COLUMNS": "400"})
        assert answer.exit_code == 0, f"{shlex.join(words)}: {answer.output} {answer.exception!r}"
        return _flat(answer.output)

    def _start(self, words: list[str]) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "demur.monitor.cli.main", *words], stdout=subprocess.PIPE, env=None
        )
        self.started.append(process)
        assert process.stdout is not None
        return _flat(process.stdout.readline().decode())

    def close(self) -> None:
        for process in self.started:
            process.terminate()
            process.communicate(timeout=20)


@contextmanager
def reading() -> Iterator[Reader]:
    reader = Reader()
    try:
        yield reader
    finally:
        reader.close()


def _flat(text: str) -> str:
    return " ".join(text.split())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are commonly made."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def waited(path: Path, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return path.exists()
