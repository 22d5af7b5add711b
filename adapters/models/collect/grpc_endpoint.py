"""A model behind the Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import grpc
from numpy.typing import NDArray

from demur.adapters.models.collect import oip_message as wire
from demur.adapters.models.collect.model import MESSAGE_BYTES, Access, Transient, served_identity
from demur.adapters.models.collect.tensor_spec import TensorSpec, spec
from demur.monitor.errors import ConfigurationError, DemurError
from demur.proto.oip.inference_pb2 import ModelInferResponse

SERVICE = "/inference.GRPCInferenceService/"
OPTIONS = [("grpc.max_send_message_length", MESSAGE_BYTES), ("grpc.max_receive_message_length", MESSAGE_BYTES)]
CODES = grpc.StatusCode
TRANSIENT = (CODES.UNAVAILABLE, CODES.DEADLINE_EXCEEDED, CODES.RESOURCE_EXHAUSTED, CODES.ABORTED)
NOT_UNDERSTOOD = (CODES.INVALID_ARGUMENT, CODES.UNIMPLEMENTED, CODES.INTERNAL, CODES.UNKNOWN)


class GrpcEndpoint:
    """One model of a server. Tensors travel as raw bytes; a server that refuses the first such call is asked with typed lists."""

    def __init__(self, url: str, access: Access) -> None:
        """Raises: ConfigurationError for an unknown model, Transient when the server is away."""
        scheme, target = _target(url)
        self._url, self._access = url, access
        self._channel = _channel(scheme, target, access)
        self._metadata = tuple((name.lower(), value) for name, value in access.headers.items())
        self._infer = self._channel.unary_unary(f"{SERVICE}ModelInfer")
        self._typed: bool | None = None
        try:
            described = self._describe()
            self.inputs: tuple[TensorSpec, ...] = tuple(spec(t.name, t.datatype, t.shape) for t in described.inputs)
            self.outputs: tuple[str, ...] = tuple(t.name for t in described.outputs)
        except BaseException:
            self._channel.close()
            raise

    def identity(self) -> Mapping[str, str]:
        """See `served_identity`."""
        return served_identity(self._url, self._access, self.inputs)

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The named outputs of one call. Raises: Transient, ConfigurationError with the server's words, BadAnswerError."""
        try:
            return self._ask(feed, outputs, typed=bool(self._typed))
        except grpc.RpcError as error:
            if self._typed is not None or _code(error) not in NOT_UNDERSTOOD:
                raise self._refusal(error) from error
            refused = error
        try:
            return self._ask(feed, outputs, typed=True)
        except (grpc.RpcError, wire.BadAnswerError):
            raise self._refusal(refused) from refused

    def close(self) -> None:
        self._channel.close()

    def _ask(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str], *, typed: bool) -> dict[str, NDArray[Any]]:
        message = wire.request(self._access.name, self._access.version, feed, outputs, typed=typed)
        answer = self._call(self._infer, message.SerializeToString())
        self._typed = typed
        return wire.arrays(ModelInferResponse.FromString(answer), outputs)

    def _call(self, method: Any, content: bytes) -> bytes:
        return bytes(method(content, timeout=self._access.timeout_seconds, metadata=self._metadata))

    def _describe(self) -> Any:
        """What the server says of the model; nothing when it does not describe models."""
        asked, answered = wire.metadata_messages()
        method = self._channel.unary_unary(f"{SERVICE}ModelMetadata")
        question = asked(name=self._access.name, version=self._access.version).SerializeToString()
        try:
            return answered.FromString(self._call(method, question))
        except grpc.RpcError as error:
            if _code(error) == CODES.UNIMPLEMENTED:
                return answered()
            raise self._refusal(error) from error

    def _refusal(self, error: grpc.RpcError) -> DemurError:
        code, words = _code(error), str(cast("grpc.Call", error).details() or "")
        message = f"{self._url}: model {self._access.name}: {code.name}: {words[:500]}"
        return Transient(message) if code in TRANSIENT else ConfigurationError(message)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    return cast("grpc.Call", error).code()


def _channel(scheme: str, target: str, access: Access) -> grpc.Channel:
    if scheme == "grpc":
        return grpc.insecure_channel(target, OPTIONS)
    roots = access.tls_ca.read_bytes() if access.tls_ca else None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), OPTIONS)


def _target(url: str) -> tuple[str, str]:
    """Scheme and host:port of a URL. Raises: ConfigurationError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        host, port = None, None
    if not host or not port:
        raise ConfigurationError(f"{url}: expected grpc://host:port")
    return parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
