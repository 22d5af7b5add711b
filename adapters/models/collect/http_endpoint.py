"""A model behind the Open Inference Protocol over HTTP: Triton's binary tensors where they are understood, else JSON."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any
from urllib.parse import quote

import httpx
from numpy.typing import NDArray

from demur.adapters.models.collect import oip_message as wire
from demur.adapters.models.collect.model import MESSAGE_BYTES, Access, Transient, served_identity
from demur.adapters.models.collect.tensor_spec import TensorSpec, spec
from demur.monitor.errors import ConfigurationError, DemurError

HEADER = "Inference-Header-Content-Length"
TRANSIENT = frozenset((408, 425, 429, 502, 503, 504))
NO_DESCRIPTION = frozenset((405, 501))


class HttpEndpoint:
    """One model of a server. The first call is binary; a server that refuses it is asked in JSON from then on."""

    def __init__(self, url: str, access: Access) -> None:
        """Raises: ConfigurationError for an unknown model, Transient when the server is away."""
        version = f"/versions/{quote(access.version, safe='')}" if access.version else ""
        self._url, self._access = url.rstrip("/"), access
        self._path = f"{self._url}/v2/models/{quote(access.name, safe='')}{version}"
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(access.tls_ca)) if access.tls_ca else True
        self._client = httpx.Client(timeout=access.timeout_seconds, headers=dict(access.headers), verify=verify)
        self._binary: bool | None = None
        try:
            described = self._describe()
            self.inputs: tuple[TensorSpec, ...] = tuple(_spec(t) for t in _tensors(described, "inputs"))
            self.outputs: tuple[str, ...] = tuple(str(t.get("name", "")) for t in _tensors(described, "outputs"))
        except BaseException:
            self._client.close()
            raise

    def identity(self) -> Mapping[str, str]:
        """See `served_identity`."""
        return served_identity(self._url, self._access, self.inputs)

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The named outputs of one call. Raises: Transient, ConfigurationError with the server's words, BadAnswerError."""
        if self._binary is None:
            first = self._tried(*_binary(feed, outputs))
            if first is not None and first.is_success:
                self._binary = True
                return _answer(first, outputs)
            if first is not None and first.status_code in TRANSIENT:
                raise self._refusal(first)
            self._binary = False
        content, headers = _binary(feed, outputs) if self._binary else _json(feed, outputs)
        answer = self._post(content, headers)
        if not answer.is_success:
            raise self._refusal(answer)
        return _answer(answer, outputs)

    def close(self) -> None:
        self._client.close()

    def _tried(self, content: bytes, headers: Mapping[str, str]) -> httpx.Response | None:
        """The answer; None when the connection broke: some servers hang up on a binary body before they have read it, or
        after the error that they make of it, so the connection is not used again.
        """
        try:
            return self._post(content, {**headers, "Connection": "close"})
        except Transient:
            return None

    def _post(self, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        return self._send("POST", f"{self._path}/infer", content=content, headers=headers)

    def _send(self, method: str, url: str, **what: Any) -> httpx.Response:
        try:
            with self._client.stream(method, url, **what) as answer:
                return self._read(answer)
        except httpx.TransportError as error:
            raise Transient(
                f"{url}: {type(error).__name__}: {error}; see that the server runs, and what its log says"
            ) from error
        except (httpx.InvalidURL, httpx.DecodingError, httpx.TooManyRedirects) as error:
            raise ConfigurationError(f"{url}: {error}") from error

    def _read(self, answer: httpx.Response) -> httpx.Response:
        """The whole answer, of bounded size (decompressed too), within the time of one call."""
        end, content = monotonic() + self._access.timeout_seconds, bytearray()
        for part in answer.iter_bytes():
            content += part
            if len(content) > MESSAGE_BYTES:
                raise wire.BadAnswerError(
                    f"{self._path}: expected an answer of at most {MESSAGE_BYTES:,} bytes; ask with a smaller --batch"
                )
            if monotonic() > end:
                raise Transient(
                    f"{self._path}: no whole answer within {self._access.timeout_seconds:g} s (--timeout-seconds)"
                )
        kept = {HEADER: answer.headers[HEADER]} if HEADER in answer.headers else {}
        return httpx.Response(answer.status_code, headers=kept, content=bytes(content))

    def _describe(self) -> Any:
        """What the server says of the model; nothing when it does not describe models."""
        answer = self._send("GET", self._path)
        if answer.status_code in NO_DESCRIPTION:
            return {}
        if not answer.is_success:
            raise self._refusal(answer)
        try:
            return answer.json()
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"{self._path}: expected the model's description in JSON, got other bytes"
            ) from error

    def _refusal(self, answer: httpx.Response) -> DemurError:
        message = f"{self._path}: HTTP {answer.status_code}: {answer.text[:500]}"
        return Transient(message) if answer.status_code in TRANSIENT else ConfigurationError(message)


def _tensors(described: Any, key: str) -> list[dict[str, Any]]:
    listed = described.get(key) if isinstance(described, dict) else None
    return [t for t in listed if isinstance(t, dict)] if isinstance(listed, list) else []


def _spec(tensor: Mapping[str, Any]) -> TensorSpec:
    shape = tensor.get("shape")
    return spec(str(tensor.get("name", "")), str(tensor.get("datatype", "")), shape if isinstance(shape, list) else ())


def _binary(feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    parts = {name: wire.raw(array) for name, array in feed.items()}
    tensors = [
        {**_named(name, array), "parameters": {"binary_data_size": len(parts[name])}} for name, array in feed.items()
    ]
    asked = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps({"inputs": tensors, "outputs": asked}).encode()
    headers = {HEADER: str(len(head)), "Content-Type": "application/octet-stream"}
    return b"".join([head, *parts.values()]), headers


def _json(feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    tensors = [{**_named(name, array), "data": array.ravel().tolist()} for name, array in feed.items()]
    body = json.dumps({"inputs": tensors, "outputs": [{"name": name} for name in outputs]})
    return body.encode(), {"Content-Type": "application/json"}


def _named(name: str, array: NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": wire.datatype(array)}


def _answer(answer: httpx.Response, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named outputs. Raises: BadAnswerError."""
    content = memoryview(answer.content)
    try:
        length = int(answer.headers.get(HEADER, len(content)))
        listed = json.loads(bytes(content[:length]))["outputs"]
        tail, found = content[length:], {}
        for output in listed:
            name, kind, shape = output["name"], output["datatype"], output["shape"]
            size = (output.get("parameters") or {}).get("binary_data_size")
            if size is None:
                found[name] = wire.from_list(name, kind, shape, output["data"]) if name in outputs else None
            else:
                found[name] = wire.from_raw(name, kind, shape, tail[:size]) if name in outputs else None
                tail = tail[size:]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise wire.BadAnswerError(f"the server's answer cannot be read ({type(error).__name__}: {error})") from error
    if missing := [name for name in outputs if found.get(name) is None]:
        raise wire.BadAnswerError(
            f"the answer has outputs {', '.join(found) or 'none'}, not {missing[0]}; correct the map"
        )
    return {name: array for name, array in found.items() if array is not None}
