"""`demur audit`: look at the log, prove it, take it elsewhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.monitor.cli.console import FOUND, out

if TYPE_CHECKING:
    from demur.monitor.audit.record import Record

app = typer.Typer(no_args_is_help=True, help="List, show, verify and export the tamper-evident log.")

Folder = Annotated[Path, typer.Argument(help="The log's folder: audit.directory of demur.yaml.")]


@app.command()
def verify(
    folder: Folder,
    key: Annotated[
        list[Path] | None,
        typer.Option(help="Trusted public key (key.pub kept elsewhere); may be given more than once."),
    ] = None,
    expect: Annotated[
        Path | None, typer.Option(help="A checkpoint kept elsewhere; shows a log that was cut back to an older state.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Recompute everything and say what it proves. Exit code 3 when something speaks against the log.

    Example: [bold]demur audit verify audit/ --key kept/key.pub --expect kept/checkpoint[/]
    """
    from demur.monitor.audit import verify_log
    from demur.monitor.audit.keys import load_public

    report = verify_log(folder, [load_public(k) for k in key or ()], expect.read_bytes() if expect else None)
    if as_json:
        names = ("ok", "trusted", "size", "covered", "uncovered", "blocks", "drops", "tail_bytes")
        print(json.dumps({**{n: getattr(report, n) for n in names}, "problems": list(report.problems)}, indent=2))
    else:
        for problem in report.problems:
            out().print(f"[red]bad [/] {problem}", markup=True)
        out().print(f"{'[green]good[/]' if report.ok else '[red]bad [/]'} {sentence(report)}")
        if not key:
            out().print(
                "[yellow]note[/] checked with the folder's own key: give --key and --expect, kept elsewhere, to prove it against whoever can write the folder"
            )
    if not report.ok:
        raise typer.Exit(FOUND)


def sentence(report: Any) -> str:
    """What a verification found, in one line."""
    head = (
        f"{report.covered} of {report.size} records are covered by the checkpoint"
        if report.checkpoint
        else f"{report.size} records, no checkpoint"
    )
    return f"{head}, {report.blocks} verdict blocks match their digests, {report.drops} drops accounted for"


@app.command("ls")
def list_records(
    folder: Folder,
    monitor: Annotated[str | None, typer.Option(help="Only this monitor.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="verdict, stream, label, review, drop, bundle, start, stop, recovery.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Only records with this reason kind, for example NOVEL.")] = None,
    abstained: Annotated[bool, typer.Option("--abstained", help="Only records with an abstention.")] = False,
    since: Annotated[datetime | None, typer.Option(help="Only records from this time on (UTC).")] = None,
    limit: Annotated[int, typer.Option(help="Newest so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List records, newest first.

    Example: [bold]demur audit ls audit/ --abstained --reason NOVEL --limit 50[/]
    """
    from demur.monitor.audit import AuditIndex

    with AuditIndex.open(folder) as index:
        found = index.search(
            monitor=monitor,
            kind=kind,
            reason=reason.upper() if reason else None,
            abstained=abstained or None,
            since_ns=int(since.replace(tzinfo=UTC).timestamp() * 1e9) if since else None,
            limit=limit,
        )
    if as_json:
        for record in found:
            print(record.leaf().decode())
        return
    _table(found)


def _table(records: list[Record]) -> None:
    from rich.table import Table

    table = Table(
        "record",
        "time (UTC)",
        "kind",
        "monitor",
        "rows",
        "accepted",
        "reasons",
        "request",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for r in records:
        when = datetime.fromtimestamp(r.time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        reasons = ", ".join(f"{k} {n}" for k, n in sorted(r.reasons.items())) or r.cause or r.note
        table.add_row(
            str(r.sequence),
            when,
            r.kind,
            r.monitor,
            *((str(r.rows), str(r.accepted)) if r.rows else ("", "")),
            reasons[:60],
            r.request,
        )
    out().print(table, soft_wrap=False)


@app.command()
def show(
    folder: Folder,
    sequence: Annotated[int, typer.Argument(help="The record's number.")],
) -> None:
    """Show one record with every row's scores, p-values and reasons.

    Example: [bold]demur audit show audit/ 42[/]
    """
    from demur.monitor.audit import AuditIndex

    with AuditIndex.open(folder) as index:
        record, block = index.show(sequence)
    out().print_json(record.leaf().decode())
    if block is not None:
        _rows(block)


def _rows(block: Any) -> None:
    from rich.table import Table

    from demur.detectors.reason import Reason

    table = Table(
        "row", "verdict", "reasons", *(f"{c} (p)" for c in block.columns), box=None, pad_edge=False, header_style="bold"
    )
    for i, accept in enumerate(block.accept):
        values = (f"{s:.4g} ({p:.3g})" for s, p in zip(block.scores[i], block.p_values[i], strict=True))
        names = " ".join(str(k.name) for k in Reason(int(block.reasons[i])))
        table.add_row(str(i), "ACCEPT" if accept else "ABSTAIN", names, *values)
    out().print(table, soft_wrap=False)


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .jsonl or .parquet file.")],
) -> None:
    """Copy every record into JSON lines or Parquet.

    Example: [bold]demur audit export audit/ -o audit.parquet[/]
    """
    from demur.monitor.audit.export import export_log

    count = export_log(folder, output)
    out().print(f"{count} records written to {output}")
