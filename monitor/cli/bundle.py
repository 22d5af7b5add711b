"""`demur bundle`: keys, signatures, folders, activation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.monitor.cli.console import FOUND, out, say
from demur.monitor.cli.options import BundleFile
from demur.monitor.outputs import check_outputs

if TYPE_CHECKING:
    from demur.monitor.bundle import Bundle

app = typer.Typer(no_args_is_help=True, help="Sign, verify, pack, unpack and activate bundles.")


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="The private key's file; the public key goes beside it as .pub.")],
) -> None:
    """Make an Ed25519 key pair.

    Example: [bold]demur bundle keygen release.key[/]
    """
    from demur.monitor.bundle.signature import generate

    public = generate(path)
    out().print(f"private key {path} (mode 0600, keep it)\npublic key  {public} (give it to servers)")


@app.command()
def sign(
    bundle: BundleFile,
    key: Annotated[Path, typer.Option(help="Private key.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: in place.")] = None,
) -> None:
    """Sign a bundle's manifest.

    Example: [bold]demur bundle sign digits.demur --key release.key[/]
    """
    from demur.monitor.bundle import Bundle
    from demur.monitor.bundle.signature import load_private

    check_outputs([output], [key])
    Bundle.load(bundle).sign(load_private(key)).save(output or bundle)
    out().print(f"signed {output or bundle}")


@app.command()
def verify(
    bundle: BundleFile,
    key: Annotated[list[Path] | None, typer.Option(help="Trusted public key; may be given more than once.")] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            help="A file with the served model's head_weight and head_bias, to know it again: a table, or MODEL.head.npz."
        ),
    ] = None,
) -> None:
    """Check digests, signature (with --key), graph and self-test, as a server would; with --head the model's last layer too.

    Example: [bold]demur bundle verify digits.demur --key release.key.pub[/]
    """
    from demur.monitor.bundle import Bundle
    from demur.monitor.bundle.signature import load_public
    from demur.monitor.loaded import Loaded

    trusted = [load_public(k) for k in key] if key else None
    loaded = Loaded.open(Bundle.load(bundle, trusted=trusted))
    signed = "signed by a trusted key" if trusted else "signature not checked (no --key)"
    say(
        f"{bundle}: sha256:{loaded.bundle.digest}, {signed}, self-test passed ({loaded.marginal} marginal rows)",
        "[green]good[/]  ",
    )
    if head is not None:
        _verify_head(loaded.bundle, head)


def _verify_head(bundle: Bundle, head: Path) -> None:
    from demur.monitor.fit.weights import check_head

    changes = check_head(bundle, head)
    for change in changes:
        say(str(change), "[bold red]changed[/]  ")
    if changes:
        raise typer.Exit(FOUND)
    say("the last layer is the one that the monitor was fitted for", "[green]good[/]  ")


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(help="A folder written by `demur bundle unpack`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle file.")],
) -> None:
    """Pack a folder into one bundle file, the same bytes every time.

    Example: [bold]demur bundle pack digits/ -o digits.demur[/]
    """
    from demur.monitor.bundle import Bundle
    from demur.monitor.bundle.archive import NAME
    from demur.monitor.errors import BundleError

    check_outputs([output], [folder])
    members = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    if "manifest.json" not in members or not all(NAME.match(n) for n in members):
        raise BundleError(f"{folder}: expected an unpacked bundle with manifest.json and plain names only")
    Bundle.assemble(members).save(output)
    out().print(f"packed {len(members)} members into {output}")


@app.command()
def unpack(bundle: BundleFile, folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Unpack a verified bundle into a folder to look at.

    Example: [bold]demur bundle unpack digits.demur digits/[/]
    """
    from demur.monitor.bundle import MANIFEST, SIGNATURE, Bundle
    from demur.monitor.errors import ConfigurationError

    if folder.exists():
        raise ConfigurationError(f"{folder}: expected a new folder, got one that is there; choose another name")
    loaded = Bundle.load(bundle)
    folder.mkdir(parents=True, exist_ok=False)
    signed = {} if loaded.signature is None else {SIGNATURE: loaded.signature}
    for name, raw in {MANIFEST: loaded.raw_manifest, **signed, **loaded.members}.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw)
    out().print(f"unpacked {len(loaded.members) + 1 + len(signed)} members into {folder}")


@app.command()
def activate(
    bundle: BundleFile,
    target: Annotated[Path, typer.Argument(help="The file a server watches.")],
    allow_rollback: Annotated[
        bool, typer.Option("--allow-rollback", help="Let the server take a lower version; audited.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
) -> None:
    """Install a bundle where a server watches; the server takes it after its own checks. Refuses what the server would: a
    lower version without --allow-rollback, and another monitor's bundle.

    Example: [bold]demur bundle activate digits-1.demur /srv/bundles/digits.demur --allow-rollback[/]
    """
    from getpass import getuser

    from demur.monitor.bundle import Bundle, succession
    from demur.monitor.bundle.activation import allow

    loaded = Bundle.load(bundle)
    last = succession.installed(target)
    if last is not None:
        succession.refuse_other(target, last, loaded)
    if allow_rollback:
        allow(target, loaded, by=getuser(), reason=reason)
    if last is not None:
        succession.check(target, last, loaded)
    loaded.save(target)
    say(f"installed version {loaded.manifest.version} (sha256:{loaded.digest[:16]}…) at {target}")
