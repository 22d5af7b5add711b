"""What the documentation says is what happens."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import demur
from demur.monitor.audit import AuditLog
from demur.monitor.audit.keys import load_or_make
from demur.monitor.cli.main import app
from demur.monitor.config.server import MonitorAuditConfig
from demur.monitor.event import BundleEvent
from demur.monitor.recorder import AuditRecorder, AuditTrail
from tests.docs.pages import PAGES, REPOSITORY, anchors, blocks, reading
from tests.docs.tables import TABLES, filled, walk

LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMANDS = dict(walk())
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what the pages name: tables, a bundle, a log, and what was kept of it elsewhere."""
    home = tmp_path_factory.mktemp("world")
    readme = [b for b in blocks(REPOSITORY / "README.md") if b.language in ("python", "yaml")]
    (home / "monitor.yaml").write_text(next(b.text for b in readme if b.language == "yaml"))
    signals = {}
    exec(next(b.text for b in readme if b.language == "python").partition("bundle = ")[0], signals)  # noqa: S102 - our own page
    tables = {"reference": (500, 1), "calibration": (800, 2), "live": (5, 3)}
    for name, (rows, seed) in tables.items():
        np.savez(home / f"{name}.npz", **signals["signals"](rows, seed=seed))
    bundle = demur.fit(home / "monitor.yaml", reference=home / "reference.npz", calibration=home / "calibration.npz")
    bundle.save(home / "mine.demur")
    _log(home, bundle, signals["signals"](5, seed=3))
    return home


def _log(home, bundle, live):
    signer = load_or_make(home / "audit" / "audit.key", "lab/mine")
    with AuditLog.open(home / "audit", origin="lab/mine", signer=signer) as log:
        AuditTrail(log).on_bundle(BundleEvent("mine", bundle.digest, 1, accepted=True, built_for="mine"))
        recorder = AuditRecorder(log, MonitorAuditConfig(ack="after_sync"))
        monitor = demur.Monitor.load(home / "mine.demur", recorder=recorder)
        for rows in (slice(0, 2), slice(2, 5)):
            assert monitor.assess(logits=live["logits"][rows], features=0 * live["features"][rows]).audited
    (home / "kept").mkdir()
    for name in ("key.pub", "checkpoint"):
        shutil.copy(home / "audit" / name, home / "kept" / name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_block_of_a_page_runs_in_order(page, world, tmp_path, monkeypatch):
    folder = tmp_path / "w"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    with reading() as reader:
        for block in blocks(page):
            if block.language in ("python", "yaml", "console"):
                getattr(reader, block.language)(block)


def test_the_runner_sees_output_that_is_not_there(world, monkeypatch):
    monkeypatch.chdir(world)
    block = blocks(REPOSITORY / "README.md")[0]
    with reading() as reader, pytest.raises(AssertionError, match="said"):
        reader.console(type(block)("console", "$ demur inspect mine.demur\nno such line\n", 1))


def test_blocks_have_a_language_that_is_run_or_is_known_not_to_be():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("\n```") == 2 * len(blocks(page)), f"{page}: a fence without a language, or not closed"
        assert {b.language for b in blocks(page)} <= {"python", "yaml", "console", "sh", "text"}, page


def test_the_quickstart_is_short():
    code = next(b for b in blocks(REPOSITORY / "README.md") if b.language == "python")
    assert len(code.text.splitlines()) <= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_generated_tables_say_what_the_code_says(page):
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, f"{page.name} is not what the code says; run `make docs`"


def test_every_table_has_its_place():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(text.count(f"<!-- begin: {name} -->") == 1 for name in TABLES)


@pytest.mark.parametrize("name", ["monitor", "server"])
def test_every_configuration_key_has_a_meaning(name):
    rows = [line.split(" | ") for line in TABLES[name]().splitlines()[2:]]
    assert len(rows) > 20
    assert not [row[0] for row in rows if row[3].strip(" |") == ""]


def _fits(value, schema, known):
    """Whether a document fits a JSON Schema; the keywords that ours use."""
    if "$ref" in schema:
        return _fits(value, known[schema["$ref"].rsplit("/", 1)[1]], known)
    if "anyOf" in schema:
        return any(_fits(value, branch, known) for branch in schema["anyOf"])
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    if "type" in schema and not isinstance(value, kinds.get(schema["type"], type(None))):
        return False
    if isinstance(value, list):
        return all(_fits(item, schema.get("items", {}), known) for item in value)
    if not isinstance(value, dict):
        return value in schema.get("enum", [value]) and value == schema.get("const", value)
    size = schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", 99)
    inner, rest = schema.get("properties", {}), next(iter(schema.get("patternProperties", {}).values()), None)
    rest = schema.get("additionalProperties", {}) if rest is None else rest
    each = (
        _fits(v, inner[k], known) if k in inner else rest is True or (rest is not False and _fits(v, rest, known))
        for k, v in value.items()
    )
    return size and set(schema.get("required", ())) <= set(value) and all(each)


@pytest.mark.parametrize(("name", "file"), [("monitor", "monitor.yaml"), ("server", "demur.yaml")])
def test_the_schema_for_editors_takes_what_the_pages_write_and_no_unknown_key(name, file):
    schema = json.loads(CliRunner().invoke(app, ["schema", name]).output)
    texts = [b.text for page in PAGES for b in blocks(page) if b.text.startswith(f"# {file}\n")]
    assert len(texts) >= 3
    for document in map(yaml.safe_load, texts):
        assert _fits(document, schema, schema["$defs"]), document
        assert not _fits({**document, "moniter": 1}, schema, schema["$defs"])


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_there_and_exits_0(path):
    answer = CliRunner().invoke(app, [*path.split()[1:], "--help"])
    assert answer.exit_code == 0
    assert "Usage" in answer.output
    assert COMMANDS[path].help


@pytest.mark.parametrize("path", LEAVES)
def test_a_command_explains_every_parameter_and_shows_an_example_that_parses(path):
    command = LEAVES[path]
    assert not [p.name for p in command.params if not getattr(p, "help", None)]
    example = re.search(r"Example: \[bold\](.+)\[/\]", inspect.cleandoc(command.help))
    assert example, f"{path}: no example"
    words = shlex.split(example[1].partition(" > ")[0])
    size = len(path.split())
    assert words[:size] == path.split()
    command.make_context(path, words[size:]).close()


@pytest.mark.parametrize("path", LEAVES)
def test_a_command_is_documented(path):
    assert f"## {path}\n" in (REPOSITORY / "docs" / "cli.md").read_text()


def test_every_page_is_in_the_index_and_every_link_leads_somewhere():
    index = (REPOSITORY / "docs" / "index.md").read_text()
    linked = [p.relative_to(REPOSITORY / "docs").as_posix() for p in PAGES[1:] if p.name != "index.md"]
    assert not [name for name in linked if f"({name})" not in index]
    for page in [*PAGES, REPOSITORY / "helm" / "demur" / "README.md"]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            assert _leads_somewhere(page, target), f"{page}: {target}"


def _leads_somewhere(page: Path, target: str) -> bool:
    if target.startswith("https://"):
        return True
    place, _, anchor = target.partition("#")
    found = (page.parent / place).resolve() if place else page
    return found.exists() and (not anchor or anchor in anchors(found))


def test_every_test_and_target_that_the_readme_names_exists():
    text = (REPOSITORY / "README.md").read_text()
    paths, targets = set(re.findall(r"\btests/[\w/.]+", text)), set(re.findall(r"\bmake ([\w-]+)`", text))
    assert len(paths) >= 9
    assert [p for p in paths if not (REPOSITORY / p).exists()] == []
    recipes = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert targets
    assert targets <= set(recipes)
