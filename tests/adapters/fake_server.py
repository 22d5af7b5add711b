"""An inference server that follows the protocol as Triton does: named outputs, raw or typed as asked, shared memory, streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.service.bundles import BAD, GOOD

SERVICE = "/inference.GRPCInferenceService/"
UNKNOWN = b"\xfa\x3e\x05hello"  # field 1007, bytes
SHARED = "shared_memory_region"
TYPED = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}


class FakeServer(grpc.GenericRpcHandler):
    """Model outputs: `label` INT64 (N,), `name` BYTES (N,), `scores` FP32 (N, 4), `features` FP32 (N, 3). A row of the input
    `image` whose first value is negative gives BAD scores.
    """

    def __init__(self, *, skip_shared: bool = False, unknown: bool = False, filtering: bool = True) -> None:
        self.skip_shared, self.unknown, self.filtering = skip_shared, unknown, filtering
        self.without: set[str] = set()
        self.fails: dict[str, tuple[grpc.StatusCode, str]] = {}  # output name to how asking for it fails
        self.seen: list[ModelInferRequest] = []
        self.parts = 0  # decoupled parts before the last one
        self.plain_stream = False  # MLServer's layout

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if method == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self._infer)
        return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)

    def answer(self, request: ModelInferRequest) -> ModelInferResponse:
        """Raises: LookupError with status and text as Triton says it."""
        tensors = self._tensors(request)
        names = [o.name for o in request.outputs] if self.filtering else []
        for name in names:
            if name in self.fails:
                raise LookupError(*self.fails[name])
            if name not in tensors:
                text = (
                    f"[request id: {request.id}] unexpected inference output '{name}' for model '{request.model_name}'"
                )
                raise LookupError(grpc.StatusCode.INVALID_ARGUMENT, text)
        message = ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version or "1", id=request.id
        )
        if request.parameters:
            message.parameters["echoed"].int64_param = len(request.parameters)
        asked = {o.name: o for o in request.outputs}
        raw = bool(request.raw_input_contents) or not request.inputs
        for name in names or list(tensors):
            self._add(message, name, tensors[name], asked.get(name), raw)
        return message

    def _add(self, message: ModelInferResponse, name: str, values: np.ndarray, asked: Any, raw: bool) -> None:
        datatype = {"i": "INT64", "f": "FP32", "O": "BYTES"}[values.dtype.kind]
        output = message.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if asked is not None and SHARED in asked.parameters:
            for key in (SHARED, "shared_memory_byte_size"):
                if key in asked.parameters:
                    output.parameters[key].CopyFrom(asked.parameters[key])
            if raw and not self.skip_shared:
                message.raw_output_contents.append(b"")
        elif asked is not None and "classification" in asked.parameters:
            output.datatype, output.shape[:] = "BYTES", [len(values), 1]
            self._fill(message, output, np.array([b"0.5:1"] * len(values), object), raw)
        else:
            self._fill(message, output, values, raw)

    def _fill(self, message: ModelInferResponse, output: Any, values: np.ndarray, raw: bool) -> None:
        if raw:
            strings = output.datatype == "BYTES"
            content = b"".join(len(v).to_bytes(4, "little") + v for v in values) if strings else values.tobytes()
            message.raw_output_contents.append(content)
        else:
            getattr(output.contents, TYPED[output.datatype]).extend(values.ravel().tolist())

    def _tensors(self, request: ModelInferRequest) -> dict[str, np.ndarray]:
        rows = request.inputs[0].shape[0] if request.inputs and len(request.inputs[0].shape) else 1
        rows = max(0, min(rows, 64))
        bad = np.zeros(rows, bool)
        if request.raw_input_contents and len(request.raw_input_contents[0]) == rows * 12:
            bad = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(rows, 3)[:, 0] < 0
        elif request.inputs and len(request.inputs[0].contents.fp32_contents) == rows * 3:
            bad = np.array(request.inputs[0].contents.fp32_contents, np.float32).reshape(rows, 3)[:, 0] < 0
        if request.model_name == "safe":
            bad[:] = False
        strings = np.empty(rows, object)
        strings[:] = [b"bad" if b else b"fine" for b in bad]
        every = {
            "label": np.where(bad, 7, 3).astype("<i8"),
            "name": strings,
            "scores": np.array([BAD if b else GOOD for b in bad], "<f4").reshape(rows, 4),
            "features": np.arange(rows * 3, dtype="<f4").reshape(rows, 3),
        }
        return {n: v for n, v in every.items() if n not in self.without}

    def serialized(self, message: ModelInferResponse) -> bytes:
        content = message.SerializeToString()
        if not self.unknown or not message.outputs:
            return UNKNOWN + content if self.unknown else content
        more = UNKNOWN  # and unknown fields within an output
        outputs = [o.SerializeToString() + UNKNOWN for o in message.outputs]
        bare = ModelInferResponse()
        bare.CopyFrom(message)
        del bare.outputs[:]
        return more + bare.SerializeToString() + b"".join(_field(5, o) for o in outputs) + more

    def _infer(self, raw: bytes, context: Any) -> bytes:
        try:
            request = ModelInferRequest.FromString(raw)
        except Exception:
            context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        self.seen.append(request)
        try:
            return self.serialized(self.answer(request))
        except LookupError as error:
            context.abort(*error.args)

    def _stream(self, requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for raw in requests:
            request = ModelInferRequest.FromString(raw)
            self.seen.append(request)
            try:
                message = self.answer(request)
            except LookupError as error:
                yield _field(1, str(error.args[1]).encode()) + _field(
                    2, ModelInferResponse(id=request.id).SerializeToString()
                )
                continue
            for number in range(self.parts + 1):
                if self.parts:
                    message.parameters["triton_final_response"].bool_param = number == self.parts
                if self.parts and number == self.parts:
                    del message.outputs[:], message.raw_output_contents[:]
                content = self.serialized(message)
                yield content if self.plain_stream else (UNKNOWN if self.unknown else b"") + _field(2, content)


def _field(number: int, content: bytes) -> bytes:
    size, head = len(content), bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes(head) + bytes([size]) + content
