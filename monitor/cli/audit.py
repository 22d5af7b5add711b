"""`demur audit`: look at the log, prove it, take it elsewhere."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from demur.monitor.cli.console import FOUND, note, out, say
from demur.monitor.cli.options import ForPrograms
from demur.monitor.cli.records import plain, rows, table

if TYPE_CHECKING:
    from demur.monitor.audit import AuditIndex

app = typer.Typer(no_args_is_help=True, help="List, show, verify and export the tamper-evident log; make its key.")

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
    as_json: ForPrograms = False,
) -> None:
    """Recompute everything and say what it proves. Exit code 3 when something speaks against the log, or its search index
    differs from it.

    Example: [bold]demur audit verify audit/ --key kept/key.pub --expect kept/checkpoint[/]
    """
    from demur.monitor.audit import verify_log
    from demur.monitor.audit.index_check import index_problem
    from demur.monitor.audit.keys import load_public

    _begun(folder)
    report = verify_log(folder, [load_public(k) for k in key or ()], expect.read_bytes() if expect else None)
    index = index_problem(folder)
    if as_json:
        names = ("ok", "trusted", "size", "covered", "uncovered", "blocks", "drops", "tail_bytes")
        told = {**{n: getattr(report, n) for n in names}, "problems": list(report.problems), "index": index}
        print(json.dumps(told, indent=2))
    else:
        for problem in report.problems:
            say(plain(problem), "[red]bad [/] ")
        say(sentence(report), "[green]good[/] " if report.ok else "[red]bad [/] ")
        if index:
            say(plain(index), "[red]bad [/] ")
        if not key:
            note(
                "checked with the folder's own key: give --key and --expect, kept elsewhere, to prove it against whoever can write the folder"
            )
    if index or not report.ok:
        raise typer.Exit(FOUND)


def sentence(report: Any) -> str:
    """What a verification found, in one line."""
    head = (
        f"{report.covered} of {report.size} records are covered by the checkpoint"
        if report.checkpoint
        else f"{report.size} records, no checkpoint"
    )
    if not report.ok:
        return f"do not rely on this log: {len(report.problems)} problems in {report.size} readable records"
    return f"{head}, {report.blocks} verdict blocks match their digests, {report.drops} drops accounted for"


@app.command("ls")
def list_records(
    folder: Folder,
    monitor: Annotated[str | None, typer.Option(help="Only this monitor.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="verdict, stream, refused, label, review, drop, bundle, start, stop, recovery."),
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
    from demur.monitor.audit import Query
    from demur.monitor.audit.record import Kind

    query = Query(
        monitor=monitor or "",
        kind=_one_of(kind, get_args(Kind), "kind"),
        reason=_reason(reason),
        accepted=False if abstained else None,
        since_ns=int(since.replace(tzinfo=UTC).timestamp()) * 1_000_000_000 if since else None,
        limit=limit,
    )
    with opened(folder) as index:
        found = index.search(query)
    if as_json:
        for record in found:
            print(record.leaf().decode())
        return
    table(found)


def _reason(given: str | None) -> str:
    """A reason kind, or `group:` and one, in any case."""
    from demur.detectors.reason import Reason

    kinds = [str(kind.name) for kind in Reason]
    known = {name.upper(): name for name in (*kinds, *(f"group:{kind}" for kind in kinds))}
    return _one_of(given and known.get(given.upper(), given), list(known.values()), "reason")


def _one_of(given: str | None, known: Sequence[str], what: str) -> str:
    if given is None or given in known:
        return given or ""
    close = difflib.get_close_matches(given, known, 1)
    raise ValueError(
        f"--{what} {given}: {f'did you mean {close[0]}? ' if close else ''}expected one of {', '.join(known)}"
    )


@app.command()
def show(
    folder: Folder,
    sequence: Annotated[int, typer.Argument(help="The record's number.")],
) -> None:
    """Show one record with every row's scores, p-values and reasons.

    Example: [bold]demur audit show audit/ 42[/]
    """
    with opened(folder) as index:
        try:
            record, block = index.show(sequence)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
    out().print_json(record.leaf().decode())
    if block is not None:
        rows(block)


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .jsonl or .parquet file.")],
) -> None:
    """Copy every record into JSON lines or Parquet.

    Example: [bold]demur audit export audit/ -o audit.parquet[/]
    """
    from demur.monitor.audit.export import write_jsonl, write_parquet
    from demur.monitor.outputs import check_outputs

    check_outputs([output], [folder])
    _existing(folder)
    if output.suffix == ".parquet":
        count = write_parquet(folder, output)
    elif output.suffix == ".jsonl":
        with output.open("w", encoding="utf-8") as file:
            count = write_jsonl(folder, file, blocks=True)
    else:
        raise ValueError(f"{output}: expected a name that ends in .jsonl or .parquet")
    out().print(f"{count} records written to {output}")


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="The key's file; its public half goes beside it as .pub.")],
    origin: Annotated[str, typer.Option(help="audit.origin of the log that it signs for.")] = "demur",
) -> None:
    """Make a checkpoint key before the log begins; without one, the server makes its own.

    Example: [bold]demur audit keygen audit.key --origin lab/digits[/]
    """
    from demur.monitor.audit.keys import generate, key_name, write_key

    public = write_key(path, generate(key_name(origin)))
    out().print(
        f"key        {path} (mode 0600, keep it)\npublic key {public} (keep a copy where the log's owner cannot write)"
    )


@contextmanager
def opened(folder: Path) -> Iterator[AuditIndex]:
    """The log's search index, brought up to date; kept in memory when the folder cannot be written."""
    import sqlite3

    from demur.monitor.audit import AuditIndex

    _existing(folder)
    writable = os.access(folder, os.W_OK)
    try:
        with AuditIndex(folder, None if writable else Path(":memory:")) as index:
            index.refresh()
            yield index
    except sqlite3.Error as error:
        raise ValueError(f"{folder / 'index.sqlite'}: {error}; delete it, it is built again from the log") from error


def _begun(folder: Path) -> None:
    """Raises: ValueError where nothing of a log is, not even a part of one that verification must complain of."""
    if not any((folder / part).exists() for part in ("journal", "checkpoint", "key.pub", "tile")):
        raise ValueError(f"{folder}: no audit log here; give the folder that audit.directory of demur.yaml names")


def _existing(folder: Path) -> None:
    if not (folder / "journal").is_dir():
        raise ValueError(
            f"{folder}: expected an audit log's folder, with journal/ in it; see audit.directory of demur.yaml"
        )
