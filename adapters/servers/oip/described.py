"""What an upstream says of its models, and which of a configuration's wishes that rules out. Asked before anything is served."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import cast
from urllib.parse import quote

import grpc
import httpx

from demur.adapters.models.collect.oip_message import metadata_messages
from demur.adapters.servers.oip import remedy
from demur.adapters.servers.oip.datatypes import DTYPES
from demur.adapters.servers.oip.proxied_model import ProxiedModel
from demur.adapters.servers.oip.reading import UnreadableOutputError
from demur.monitor.errors import ConfigurationError, DemurError
from demur.monitor.service.tls import read_authorities

METHOD = "/inference.GRPCInferenceService/ModelMetadata"
LARGEST_BYTES = 4 << 20
SECONDS = 3.0
Outputs = Mapping[str, str]  # name to datatype
ABSENT = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


class UndescribedError(DemurError):
    """A server that does not say, to us or to anybody, which outputs its model has."""


def over_grpc(target: str, authority: Path | None, model: str, version: str = "") -> Outputs:
    """The outputs of a model. Raises: UndescribedError; ConfigurationError for a model that the server does not have."""
    asked, answer = metadata_messages()
    options = (("grpc.max_receive_message_length", LARGEST_BYTES),)
    roots = None if authority is None else read_authorities(authority, "proxy.upstream_tls_ca")
    channel = (
        grpc.insecure_channel(target, options)
        if roots is None
        else grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), options)
    )
    question = asked(name=model, version=version).SerializeToString()
    with closing(channel):
        try:
            said = answer.FromString(channel.unary_unary(METHOD)(question, timeout=SECONDS))
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            raise _refusal(call.code() in ABSENT, f"{call.code().name}: {call.details()}") from error
        except Exception as error:  # bytes that are no such message: protobuf's own error
            raise UndescribedError(f"its description cannot be read ({type(error).__name__})") from error
    return _named((output.name, output.datatype) for output in said.outputs)


def over_http(url: str, authority: Path | None, model: str, version: str = "") -> Outputs:
    """As `over_grpc`. Raises: as `over_grpc`."""
    path = f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}"
    path += f"/versions/{quote(version, safe='')}" if version else ""
    try:
        status, content = _got(path, authority)
        said = json.loads(content)["outputs"] if status == httpx.codes.OK else []
        outputs = [(str(output["name"]), str(output.get("datatype", ""))) for output in said]
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        OSError,
        ValueError,
        RecursionError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise UndescribedError(f"its description cannot be read ({type(error).__name__})") from error
    if status != httpx.codes.OK:
        raise _refusal(status in (400, 404), f"HTTP {status}")
    return _named(outputs)


def _got(url: str, authority: Path | None) -> tuple[int, bytes]:
    """Status and body. Raises: httpx.HTTPError, OSError, ValueError for a body that is too large."""
    trust: ssl.SSLContext | bool = True if authority is None else ssl.create_default_context(cafile=authority)
    ends = monotonic() + SECONDS
    # Not by the environment's proxy: requests are not forwarded through it either.
    with (
        httpx.Client(timeout=SECONDS, verify=trust, trust_env=False) as client,
        client.stream("GET", url) as answer,
    ):
        content = b""
        for part in answer.iter_bytes():
            content += part
            if len(content) > LARGEST_BYTES:
                raise ValueError(f"larger than {LARGEST_BYTES} bytes")
            if monotonic() > ends:
                raise ValueError(f"it took longer than {SECONDS:g} s")
        return answer.status_code, content


def contradictions(model: ProxiedModel, outputs: Outputs) -> Iterator[str]:
    """What this configuration wants of a model with these outputs, and cannot get."""
    known = ", ".join(outputs)
    for name in model.contract(model.engine.loaded).needed:
        if name not in outputs:
            yield f"the monitor needs the output {name}, upstream has {known}"
    for name, value in model.config.replace.items():
        if name not in outputs:
            yield f"`replace` names the output {name}, upstream has {known}"
        elif outputs[name] in DTYPES and outputs[name] != "BF16":
            try:
                remedy.filling(DTYPES[outputs[name]], value, name)
            except UnreadableOutputError as error:
                yield f"`replace`: {error}"


def _named(outputs: Iterable[tuple[str, str]]) -> Outputs:
    found = dict(outputs)
    if not found:
        raise UndescribedError("it names no outputs")
    return found


def _refusal(absent: bool, words: str) -> DemurError:
    return ConfigurationError(words[:500]) if absent else UndescribedError(words[:500])
