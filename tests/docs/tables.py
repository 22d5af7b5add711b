"""The generated tables of docs/: configuration keys, scores, commands. `make docs` writes them, a test compares them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from demur.detectors.scores import SCORES, STREAM_SCORES
from demur.detectors.transforms import TRANSFORMS
from demur.monitor.cli.main import app
from demur.monitor.config.detection import DetectionConfig
from demur.monitor.config.document import Section
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.config.server import ServerConfig
from demur.monitor.perturb import CATALOGUE
from tests.differential import deviations

REPOSITORY = Path(__file__).resolve().parents[2]
PLACE = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->\n)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with every marked place holding what the code says now. Raises: KeyError for an unknown table."""
    return PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def table(heads: str, rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    names = heads.split("|")
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def keys(model: type[Section]) -> str:
    """Every key of a configuration file."""
    schema = model.model_json_schema()
    return table("key|value|default|meaning", _walk(schema, schema.get("$defs", {}), ""))


def _walk(section: dict[str, Any], known: dict[str, Any], prefix: str) -> Iterator[tuple[str, ...]]:
    for name, entry in section["properties"].items():
        branches = [_resolved(b, known) for b in entry.get("anyOf", [entry]) if b.get("type") != "null"]
        inner, suffix = _inside(branches[0], known)
        default = _default(name, entry, section, nested=inner is not None)
        meaning = entry.get("description") or next((b["description"] for b in branches if "description" in b), "")
        if inner is not None:
            meaning = entry.get("description") or inner.get("description", "")
        kind = " or ".join(_kind(b) for b in branches)
        yield f"`{prefix}{name}`", kind, default, meaning.replace("\n", " ")
        if inner is not None:
            yield from _walk(inner, known, f"{prefix}{name}{suffix}.")


def _resolved(entry: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = known[entry["$ref"].rsplit("/", 1)[1]] if "$ref" in entry else entry
    return found


def _inside(entry: dict[str, Any], known: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The section below an entry, and how its keys are reached."""
    if "properties" in entry:
        return entry, ""
    pattern = next(iter(entry.get("patternProperties", {}).values()), None)
    for below, suffix in ((entry.get("items"), "[]"), (entry.get("additionalProperties"), ".NAME"), (pattern, ".NAME")):
        for branch in below.get("anyOf", [below]) if isinstance(below, dict) else ():
            if "properties" in (found := _resolved(branch, known)):
                return found, suffix
    return None, ""


def _default(name: str, entry: dict[str, Any], section: dict[str, Any], *, nested: bool) -> str:
    if name in section.get("required", ()):
        return "required"
    given = entry.get("default")
    if given is None or (nested and given is not None):
        return ""
    return f"`{str(given).lower() if isinstance(given, bool) else given}`" if given != "" else ""


def _kind(entry: dict[str, Any]) -> str:
    if "const" in entry:
        return f"`{entry['const']}`"
    if "enum" in entry:
        return " or ".join(f"`{value}`" for value in entry["enum"])
    if entry.get("type") == "array":
        if "prefixItems" in entry:
            return f"[{', '.join(map(_kind, entry['prefixItems']))}]"
        items = entry["items"]
        return "list of " + (_kind(items) + "s" if "type" in items else "sections")
    if entry.get("type") == "object":
        return "section" if "properties" in entry else "mapping"
    word = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}[entry["type"]]
    return {"path": "path"}.get(entry.get("format", ""), word) + _bounds(entry)


def _bounds(entry: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f" {sign} {entry[word]}" for word, sign in words.items() if word in entry)


def scores() -> str:
    """The catalogue: what each score reads, and how its fit scales."""
    return table(
        "type|inputs|hyper-parameters|fit|source",
        (_score(name, kind) for name, kind in {**SCORES, **STREAM_SCORES}.items()),
    )


def _score(name: str, kind: type[Any]) -> tuple[str, ...]:
    inputs, scales, source = (inspect.getattr_static(kind, word) for word in ("inputs", "scales", "source"))
    held = isinstance(inputs, tuple)
    return (
        f"`{name}`",
        ", ".join(f"`{i}`" for i in inputs) if held else COMPOSED[name][0],
        ", ".join(f"`{p.name}`{_given(p)}" for p in list(inspect.signature(kind.fit).parameters.values())[1:]),
        COMPOSED[name][1] if isinstance(scales, property) else _scaling(scales),
        COMPOSED[name][2] if isinstance(source, property) else source,
    )


COMPOSED = {
    "shaped": ("those of its first transform", "its score's", "its score's and its transforms'"),
    "fused": ("p-values of the scores in `of`", "", ""),
    "failure": ("p-values of the scores in `of`", "", ""),
    "two_sided": ("the p-value of the score in `of`", "", ""),
    "flagged": ("p-values of the scores in `of`", "", ""),
    "early_stopped": ("the scores in `of`", "", ""),
    "scod": ("`logits` and its score's", "", ""),
    "onnx_score": ("the inputs of the model", "", ""),
    "given": ("the signal that it names", "", ""),
    "interval_width": ("`spread`, or `low` and `high`", "", ""),
    "veracity": ("`truth`, `estimate` and those in `uncertainty`", "", ""),
    "reconstruction": ("the input of the network", "", ""),
    "nac_layers": ("each of its `layers`, and its gradient `<layer>_grad`", "", ""),
}


def transforms() -> str:
    """What reshapes signals before a score sees them."""
    return table("transform|what it does|hyper-parameters", (_transform(*entry) for entry in TRANSFORMS.items()))


def _transform(name: str, kind: type[Any]) -> tuple[str, ...]:
    given = [f"`{p.name}`{_given(p)}" for p in list(inspect.signature(kind.fit).parameters.values())[1:]]
    return (
        f"`{name}`",
        " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split("\nShapes:")[0].split()),
        ", ".join(given),
    )


def _given(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return ""
    return f" = {'chosen from D' if parameter.default is None else parameter.default}"


def _scaling(scales: Any) -> str:
    return {
        "exact_merge": "one pass, exact",
        "k_pass": f"{scales.passes} passes, exact",
        "sketch": f"one pass, relative error {scales.error:g}",
        "sample": f"sample of at most {scales.size} rows",
    }[scales.kind]


def perturbations() -> str:
    """The catalogue of perturbations: what each severity sets."""
    rows = (entry for kind in CATALOGUE.values() for entry in kind.values())
    return table(
        "as|how|what it does|1 to 5|which are|source",
        (
            (
                entry.kind,
                f"`{entry.name}`",
                (inspect.getdoc(entry.change) or "").partition("\n")[0],
                ", ".join(f"{value:g}" for value in entry.values),
                entry.parameter,
                entry.source,
            )
            for entry in rows
        ),
    )


def commands() -> str:
    """Every command and its options, as `--help` says them."""
    return "\n".join(_command(path, command) for path, command in walk() if not hasattr(command, "commands"))


def walk() -> Iterator[tuple[str, Any]]:
    """Every command by its words."""
    stack: list[tuple[str, Any]] = [("demur", typer.main.get_command(app))]
    while stack:
        path, command = stack.pop()
        yield path, command
        below: dict[str, Any] = getattr(command, "commands", {})
        stack.extend((f"{path} {name}", found) for name, found in reversed(below.items()))


def _command(path: str, command: Any) -> str:
    about, _, example = re.sub(r"\[/?[a-z]*\]", "", inspect.cleandoc(command.help or "")).partition("Example: ")
    options = table("argument or option|meaning", (_parameter(p) for p in command.params if p.name != "help"))
    return f"## {path}\n\n{about.strip()}\n\n    {example.strip()}\n\n{options}"


def _parameter(parameter: Any) -> tuple[str, str]:
    meaning = str(getattr(parameter, "help", "") or "")
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`", meaning
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    must = " Required." if parameter.required else ""
    shown = parameter.default
    given = f" Default: `{shown}`." if shown not in (None, False, "", ()) and not callable(shown) else ""
    return names, meaning + must + given


TABLES: dict[str, Callable[[], str]] = {
    "monitor": lambda: keys(PolicyConfig),
    "server": lambda: keys(ServerConfig),
    "segmentation": lambda: keys(SegmentationConfig),
    "detection": lambda: keys(DetectionConfig),
    "scores": scores,
    "transforms": transforms,
    "commands": commands,
    "perturbations": perturbations,
    "agreements": lambda: table("here|library|there|relation", deviations.rows()),
    "deviations": lambda: table("here|there|what differs there|why not here", deviations.reasons()),
}

if __name__ == "__main__":
    for page in sorted((REPOSITORY / "docs").glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
