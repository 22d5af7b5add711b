"""`demur`: every command, and what its exit code means."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from demur.monitor.cli import (
    assess,
    audit,
    bench,
    bundle,
    collect,
    curate,
    demo,
    doctor,
    evaluate,
    fit,
    fuse,
    hallucinations,
    inspect,
    instrument,
    interval,
    perturb,
    serve,
)
from demur.monitor.cli.console import ERRORS, REFUSED, fail

app = typer.Typer(
    name="demur",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A runtime safety monitor for deployed models: [bold]accept[/] or [bold]abstain[/], with reasons, promises and an audit trail.",
    epilog="Exit codes: 0 done; 1 refused or failed, with the reason on stderr; 2 wrong usage; 3 a check found a problem. Start with [bold]demur demo[/].",
)

app.command("instrument")(instrument.instrument)
app.command("collect")(collect.collect)
app.command("fit")(fit.fit)
app.command("calibrate")(fit.calibrate)
app.command("fuse")(fuse.fuse)
app.command("inspect")(inspect.inspect)
app.add_typer(bundle.app, name="bundle")
app.command("serve")(serve.serve)
app.command("assess")(assess.assess)
app.command("evaluate")(evaluate.evaluate)
app.command("hallucinations")(hallucinations.hallucinations)
app.command("interval")(interval.interval)
app.command("perturb")(perturb.perturb)
app.add_typer(curate.app, name="curate")
app.command("bench")(bench.bench)
app.command("demo")(demo.demo)
app.add_typer(audit.app, name="audit")
app.command("doctor")(doctor.doctor)
app.command("schema")(serve.schema)


def _version(value: bool) -> None:
    if value:
        import demur

        print(f"demur {demur.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of the `demur` command."""
    try:
        app()
    except ERRORS as error:
        fail(error)
        sys.exit(REFUSED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
