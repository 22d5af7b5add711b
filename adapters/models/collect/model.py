"""A model to collect from: an ONNX file, or a server that speaks the Open Inference Protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from numpy.typing import NDArray

from demur.adapters.models.collect.tensor_spec import TensorSpec
from demur.monitor.errors import ConfigurationError, DemurError
from demur.monitor.session import CPU

MESSAGE_BYTES = 512 << 20  # of one request or answer


class Transient(DemurError):
    """A call that may succeed when it is made again: the server was busy, away or too slow."""


class Model(Protocol):
    """What is asked of a model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs; empty when it does not say."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs; empty when it does not say."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What must be the same for a stopped run to be continued. `origin`, else `sha256`, where they are known, is the
        SHA-256 of the model's file as it was before it was instrumented.
        """
        ...

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The named outputs, as they come. Raises: Transient, or another DemurError when calling again is of no use."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """How a model is reached. For ONNX files: threads and providers; for servers the rest.

    `headers` go with every call (HTTP headers, gRPC metadata); they are written nowhere.
    """

    name: str = ""
    version: str = ""
    threads: int = 1
    providers: Sequence[str] = CPU
    timeout_seconds: float = 60.0
    headers: Mapping[str, str] = field(default_factory=dict)
    tls_ca: Path | None = None


def open_model(source: str | Path, access: Access, outputs: Sequence[str] | None = None) -> Model:
    """By what it is: `grpc://host:port`, `grpcs://`, `http://`, `https://`, or a path of an ONNX file.

    `outputs` None leaves all of an ONNX file's outputs in; else only these are computed.
    Raises: ConfigurationError, BundleError for a graph that the runtime refuses, Transient for a server that is away.
    """
    scheme = _scheme(str(source)) if "://" in str(source) else ""
    if not scheme:
        from demur.adapters.models.collect.onnx_model import OnnxModel

        return OnnxModel(Path(source), access, outputs)
    _check_headers(access.headers)
    if access.tls_ca is not None and not access.tls_ca.is_file():
        raise ConfigurationError(f"{access.tls_ca}: no such file; expected the certificates (PEM) of an authority")
    if not access.name:
        raise ConfigurationError(f"{source}: expected --model NAME, the name under which the server knows the model")
    if scheme in ("grpc", "grpcs"):
        from demur.adapters.models.collect.grpc_endpoint import GrpcEndpoint

        return GrpcEndpoint(str(source), access)
    if scheme in ("http", "https"):
        from demur.adapters.models.collect.http_endpoint import HttpEndpoint

        return HttpEndpoint(str(source), access)
    raise ConfigurationError(
        f"{source}: expected grpc://, grpcs://, http://, https:// or an ONNX file, got {scheme}://"
    )


def served_identity(url: str, access: Access, inputs: Sequence[TensorSpec]) -> Mapping[str, str]:
    """Address, name and version, and the inputs as the server describes them: it says nothing of its weights."""
    described = "; ".join(map(str, inputs))
    return {"url": url, "name": access.name, "version": access.version, "inputs": described}


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raises: ConfigurationError for what no transport carries; their own errors would repeat what may be a password."""
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not (value.isascii() and value.isprintable()):
            raise ConfigurationError(
                "a header cannot be sent: expected a name of letters, digits, - _ . and a value of printable ASCII, as in "
                "--header NAME=VALUE"
            )


def _scheme(url: str) -> str:
    """Raises: ConfigurationError for an address with a password in it, which would stand in messages and files."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url}: not an address ({error}); expected grpc://host:port") from error
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}: expected no user in the address; "
            "say who asks with --header Authorization=..."
        )
    return parts.scheme
