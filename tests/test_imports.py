"""Assessing in process stays light."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import demur
from demur.detectors.scores import SCORES, STREAM_SCORES

GOLDEN = Path(__file__).parent / "golden" / "sliced.demur"
HEAVY = (
    "grpc",
    "demur.proto",
    "opentelemetry",
    "prometheus_client",
    "pyarrow",
    "sklearn",
    "scipy",
    "rich",
    "typer",
    "torch",
    "pandas",
)


def test_assessing_in_process_loads_no_transport_and_little_memory():
    program = f"""
import json, sys
import numpy as np
import demur
verdicts = demur.Monitor.load({str(GOLDEN)!r}).assess(logits=np.zeros((1, 4), np.float32))
assert len(verdicts) == 1
resident = int(open("/proc/self/statm").read().split()[1]) * 4096
print(json.dumps([sorted(sys.modules), resident]))
"""
    modules, resident = json.loads(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )
    assert [h for h in HEAVY if any(m == h or m.startswith(h + ".") for m in modules)] == []
    print(f"resident: {resident / 1e6:.0f} MB")
    assert resident <= 200e6


@pytest.mark.parametrize("name", demur.__all__)
def test_the_public_interface_is_there_and_documented(name):
    assert inspect.getdoc(getattr(demur, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Monitr'"):
        _ = demur.Monitr


@pytest.mark.parametrize("name", [*SCORES, *STREAM_SCORES])
def test_scores_say_shapes_range_source_and_sign(name):
    text = " ".join(inspect.getdoc({**SCORES, **STREAM_SCORES}[name]).split())
    assert all(part in text for part in ("Shapes:", "Range:", "Source:", "Higher is less trustworthy"))


ROOT = Path(__file__).parents[1]
PUBLIC = [
    *(ROOT / "monitor" / f"{n}.py" for n in ("engine", "monitor", "observation", "verdicts", "streams", "loaded")),
    *sorted((ROOT / "monitor" / "bundle").glob("*.py")),
    *sorted((ROOT / "monitor" / "config").glob("*.py")),
    *sorted((ROOT / "detectors" / "scores").glob("*.py")),
]


def public(tree):
    """Public functions, and public methods of public classes, with the docstring of the class for its `fit`."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (
                (f, ast.get_docstring(node) or "")
                for f in node.body
                if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")
            )


def undocumented(path):
    faults = []
    for function, about in public(ast.parse(path.read_text())):
        text = ast.get_docstring(function)
        overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in function.decorator_list)
        score = "scores" in path.parts
        if text is None and not score and not overload:
            faults.append(f"{path.name}:{function.lineno} {function.name} has no docstring")
        if any(isinstance(n, ast.Raise) for n in ast.walk(function)) and "Raises:" not in (text or "") + about:
            faults.append(f"{path.name}:{function.lineno} {function.name} raises and does not say so")
    return faults


@pytest.mark.parametrize("path", PUBLIC, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_public_functions_say_what_they_do_and_what_they_raise(path):
    assert undocumented(path) == []
