"""What is installed is what is in the repository, and nothing in it names a machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("detectors", "monitor", "adapters", "proto")
INPUTS = (*PACKAGES, "src", "pyproject.toml", "README.md", "LICENSE")
TOP = (*INPUTS, "docs", "tests", "helm", "requirements", ".ci", "Makefile", ".gitignore")
LOCKS = sorted((REPOSITORY / "requirements").glob("*.lock"))
BINARY = {".demur", ".npz", ".npy", ".onnx", ".parquet", ".png", ".pyc", ".woff2", ".gz", ".whl"}
# Spelled in parts, so that this file does not find itself.
MACHINE = re.compile(r"(?:^|[^A-Za-z0-9_.-])/" + r"(?:wo" + r"rk|ro" + r"ot|tmp/sp" + r"ec|ho" + r"me)/", re.MULTILINE)
HOSTS = re.compile(
    "|".join(("py" + r"pi\.org", "python" + "hosted", "docker" + r"\.io", "gh" + r"cr\.io", "qu" + r"ay\.io"))
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy: building leaves traces beside the sources."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in INPUTS:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, copy / name)
    pip("wheel", str(copy), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out))
    (found,) = out.glob("demur-*.whl")
    return found


def pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sources() -> set[str]:
    """Every file that an installed demur needs, as it is named in a wheel."""
    kept = {".py", ".pyi", ".proto", ".json", ".css", ".js"}
    found = {"demur/__init__.py", "demur/py.typed"}
    for package in PACKAGES:
        files = (p for p in (REPOSITORY / package).rglob("*") if p.suffix in kept and "__pycache__" not in p.parts)
        found |= {f"demur/{p.relative_to(REPOSITORY).as_posix()}" for p in files}
    return found


def test_the_wheel_holds_every_source_as_a_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        entries = {e.filename: e for e in archive.infolist() if not e.filename.startswith("demur-")}
        assert not [n for n, e in entries.items() if (e.external_attr >> 16) & 0o170000 == 0o120000], "links"
        assert sources() - set(entries) == set()
        assert all(
            archive.read(n) == (REPOSITORY / n.removeprefix("demur/")).read_bytes()
            for n in sources() & set(entries)
            if n.count("/") > 1
        )


def test_the_wheel_holds_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if ".dist-info/" not in n]
    assert {n.partition("/")[0] for n in names} == {"demur"}
    assert not [n for n in names if re.search(r"(^|/)(tests?|conftest\.py|__pycache__|helm|docs)(/|$)", n)]
    assert "demur/proto/demur/v1/monitor.proto" in names
    assert "demur/proto/demur/vendored/oip/v2/inference.proto" in names
    assert "demur/py.typed" in names


def test_an_installed_wheel_works_without_the_repository(wheel, tmp_path):
    target = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--quiet", "--target", str(target), str(wheel))
    program = (
        "import demur, demur.proto.v1.monitor_pb2 as pb, demur.proto.oip.inference_pb2, demur.adapters.servers.oip, pathlib, sys\n"
        "from demur.monitor.cli.main import app\n"
        "homes = {m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'demur' and m.__file__}\n"
        "assert all(pathlib.Path(h).is_relative_to(sys.argv[1]) for h in homes), homes\n"
        "golden = demur.Monitor.load(sys.argv[2])\n"
        "print(demur.__version__, pb.DESCRIPTOR.package, golden.bundle.manifest.monitor)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(target), str(REPOSITORY / "tests" / "golden" / "rows.demur")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split()[1] == "demur.v1"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_a_lock_pins_every_package_by_hash_and_names_no_index(lock):
    text = re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 1
    for entry in entries:
        assert re.match(r"[A-Za-z0-9_.\[\]-]+==[^\s;]+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|(^|\s)-i\s", text)


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file that a person would see in the repository."""
    for name in TOP:
        top = REPOSITORY / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            generated = {"__pycache__"} & set(path.parts) or any(p.endswith(".egg-info") for p in path.parts)
            if path.is_file() and path.suffix not in BINARY and not generated:
                yield path, path.read_text(encoding="utf-8")


def test_the_patterns_find_what_they_look_for():
    assert MACHINE.search("see /wo" + "rk/main/x")
    assert MACHINE.search('"/ro' + 'ot/.cache"')
    assert not MACHINE.search("https://example.org/wo" + "rk/x, frame/ro" + "ot/y")
    assert HOSTS.search("https://py" + "pi.org/simple")


def test_no_machine_path_and_no_registry_host_is_named():
    seen = dict(texts())
    assert len(seen) > 150
    found = [f"{p.relative_to(REPOSITORY)}: {m[0].strip()}" for p, text in seen.items() for m in MACHINE.finditer(text)]
    found += [f"{p.relative_to(REPOSITORY)}: {m[0]}" for p, text in seen.items() for m in HOSTS.finditer(text)]
    assert not found
