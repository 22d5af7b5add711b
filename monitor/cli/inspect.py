"""`demur inspect`: what a bundle is and what it promises."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.monitor.cli.console import grid, note, out, say
from demur.monitor.cli.options import BundleFile

if TYPE_CHECKING:
    from demur.monitor.bundle import Bundle, Manifest


def inspect(
    bundle: BundleFile,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest with digest and sizes, for programs.")] = False,
) -> None:
    """Show promises, scores with their source papers, sizes and digests of a bundle.

    Example: [bold]demur inspect digits.demur[/]
    """
    from demur.monitor.bundle import Bundle

    loaded = Bundle.load(bundle)
    if as_json:
        print(json.dumps(document(loaded), indent=2, sort_keys=True))
        return
    head(loaded)
    notes(loaded)
    promises(loaded)
    scores(loaded)
    members(loaded)


def document(bundle: Bundle) -> dict[str, Any]:
    """Everything `inspect` knows, as JSON."""
    return {
        "digest": bundle.digest,
        "signed": bundle.signature is not None,
        "manifest": bundle.manifest.model_dump(mode="json"),
    }


def head(bundle: Bundle) -> None:
    manifest = bundle.manifest
    signals = ", ".join(f"{s.name} ({s.width}, {s.kind})" for s in manifest.signals)
    model = " ".join(v for k, v in manifest.model.items() if k in ("name", "version") and v) or "any"
    lines = {
        "monitor": f"{manifest.monitor}, version {manifest.version}, for {'token streams' if manifest.kind == 'stream' else 'rows'}",
        "bundle": f"sha256:{bundle.digest}",
        "signed": "yes (check with `demur bundle verify --key`)" if bundle.signature else "no",
        "signals": signals,
        "model": model,
        "rows": ", ".join(
            f"{manifest.counts.get(name, '?')} {name} (sha256:{digest[:8]}…)"
            for name, digest in manifest.digests.items()
        ),
        **_origin(manifest),
        "built by": f"demur {manifest.demur}, ONNX Runtime {manifest.environment.get('onnxruntime', '?')}",
    }
    from rich.markup import escape

    for name, text in lines.items():
        say(escape(text), f"[bold]{name:<9}[/]")
    out().print()


def _origin(manifest: Manifest) -> dict[str, str]:
    """How the signals were decoded, from which model they were collected, and how many groups had none."""
    from demur.monitor.bundle.manifest import EMPTY

    origin, found = manifest.origin, dict[str, str]()
    if origin is not None and origin.decoding:
        found["decoded"] = f"by {', '.join(origin.decoding)} (sha256:{origin.decoding_digest[:12]}…)"
    if origin is not None and origin.model:
        found["from"] = f"the model sha256:{origin.model[:12]}…"
    if empty := manifest.counts.get(EMPTY):
        found["empty"] = f"{empty} of the calibration groups have no rows"
    return found


def notes(bundle: Bundle) -> None:
    """What was said of the tables when it was fitted and calibrated."""
    for finding in bundle.manifest.findings:
        note(finding)


def promises(bundle: Bundle) -> None:
    """The printed promises, rule by rule, and what is not promised."""
    from rich.markup import escape  # a bundle may be a stranger's

    rules = bundle.manifest.rules
    for rule in rules:
        out().print(f"[bold]{escape(rule.name)}[/]")
        say(escape(rule.statement), "  ")
    for text in bundle.manifest.statements[len(rules) :] + bundle.manifest.cautions:
        say(f"[dim]{escape(text)}[/]", "  ")


def scores(bundle: Bundle) -> None:
    """A table of scores and their sources."""
    from rich.markup import escape

    table = grid("score", "type", "units", "bytes", "multiply-adds", "source")
    units = {c.score: c.units for c in bundle.manifest.columns}
    for score in bundle.manifest.scores:
        counts = units.get(score.name, [])
        units_text = ", ".join(map(str, counts[:4])) + ("…" if len(counts) > 4 else "")
        costs = (f"{score.state_bytes:,}", f"{score.multiply_adds:,}") if score.state_bytes else ("", "")
        table.add_row(escape(score.name), escape(score.type), units_text, *costs, escape(score.source))
    out().print()
    out().print(table, soft_wrap=False)


def members(bundle: Bundle) -> None:
    """Sizes and digests of the members."""
    from rich.markup import escape

    table = grid("member", "bytes", "sha256")
    for name, entry in sorted(bundle.manifest.members.items(), key=lambda m: -m[1].size)[:8]:
        table.add_row(escape(name), f"{entry.size:,}", entry.sha256[:16] + "…")
    rest = len(bundle.manifest.members) - 8
    if rest > 0:
        table.add_row(f"and {rest} more", f"{sum(e.size for e in bundle.manifest.members.values()):,} in all", "")
    out().print()
    out().print(table, soft_wrap=False)
