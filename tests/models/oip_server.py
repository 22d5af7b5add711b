"""An ONNX file behind the Open Inference Protocol, in this process: gRPC and HTTP, with faults on demand."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import onnx

from demur.monitor.session import Session
from demur.proto.oip.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse

DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "UINT8": "u1", "FP16": "<f2"}
TYPES = {1: "FP32", 7: "INT64", 2: "UINT8", 11: "FP64", 10: "FP16"}
LISTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "UINT8": "uint_contents"}
NAMES = {np.dtype(v): k for k, v in DTYPES.items()}


class Served:
    """One model. `faults` are raised by the next calls, one each; `raw`: takes raw or binary tensors; `answers_raw`;
    `described`: answers ModelMetadata; `asked`: the output names of every call."""

    def __init__(self, content, name="digits", *, raw=True, answers_raw=True, described=True):
        self.name, self.raw, self.answers_raw, self.described = name, raw, answers_raw, described
        self.session = Session(content, whole=True)
        self.model = onnx.load_model_from_string(content)
        self.faults, self.asked, self.batches, self.headers = [], [], [], []

    def infer(self, feed, outputs):
        self.asked.append(tuple(outputs))
        self.batches.append(len(next(iter(feed.values()))))
        found = self.session.run(feed)
        return {n: found[n] for n in outputs or found}

    def tensors(self, values):
        for value in values:
            tensor = value.type.tensor_type
            yield value.name, TYPES[tensor.elem_type], [d.dim_value or -1 for d in tensor.shape.dim]

    def fault(self):
        return self.faults.pop(0) if self.faults else None


class _Grpc(grpc.GenericRpcHandler):
    def __init__(self, served):
        self.served = served

    def service(self, details):
        method = details.method.rpartition("/")[2]
        if details.method.startswith("/inference.GRPCInferenceService/") and hasattr(self, method):
            return grpc.unary_unary_rpc_method_handler(getattr(self, method))
        return None

    def ModelMetadata(self, content, context):  # noqa: N802  the protocol's name
        """Written byte by byte: an oracle of the messages that the collector builds for itself."""
        if not self.served.described:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no metadata")
        if field(1, self.served.name.encode()) not in content:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        answer = field(1, self.served.name.encode()) + field(2, b"1") + field(3, b"onnx")
        for number, values in ((4, self.served.model.graph.input), (5, self.served.model.graph.output)):
            for name, kind, shape in self.served.tensors(values):
                dims = b"".join(varint(d % 2**64) for d in shape)
                answer += field(number, field(1, name.encode()) + field(2, kind.encode()) + field(3, dims))
        return answer

    def ModelInfer(self, content, context):  # noqa: N802
        request = ModelInferRequest.FromString(content)
        self.served.headers.append(dict(context.invocation_metadata()))
        if (fault := self.served.fault()) is not None:
            context.abort(fault, "as ordered")
        if request.raw_input_contents and not self.served.raw:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "raw_input_contents are not supported")
        feed = {}
        for place, tensor in enumerate(request.inputs):
            if request.raw_input_contents:
                array = np.frombuffer(request.raw_input_contents[place], DTYPES[tensor.datatype])
            else:
                array = np.array(getattr(tensor.contents, LISTS[tensor.datatype]), DTYPES[tensor.datatype])
            feed[tensor.name] = array.reshape(tuple(tensor.shape))
        answer = ModelInferResponse(model_name=self.served.name, parameters={"x": InferParameter(bool_param=True)})
        for name, array in self.served.infer(feed, [o.name for o in request.outputs]).items():
            kind = NAMES[array.dtype]
            tensor = answer.outputs.add(name=name, datatype=kind, shape=array.shape)
            if self.served.answers_raw:
                answer.raw_output_contents.append(array.tobytes())
            else:
                getattr(tensor.contents, LISTS[kind]).extend(array.ravel().tolist())
        return answer.SerializeToString()


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


class _Http(BaseHTTPRequestHandler):
    served = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self.served.described:
            return self.answer(501, b"{}")
        if self.path != f"/v2/models/{self.served.name}":
            return self.answer(404, b'{"error": "unknown model"}')
        shape = lambda values: [{"name": n, "datatype": d, "shape": s} for n, d, s in self.served.tensors(values)]  # noqa: E731
        graph = self.served.model.graph
        body = {"name": self.served.name, "inputs": shape(graph.input), "outputs": shape(graph.output)}
        return self.answer(200, json.dumps(body).encode())

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.served.headers.append({k.lower(): v for k, v in self.headers.items()})
        if (fault := self.served.fault()) is not None:
            return self.answer(fault, b'{"error": "as ordered"}')
        length = self.headers.get("Inference-Header-Content-Length")
        if length is not None and not self.served.raw:
            return self.answer(422, b'{"error": "expected JSON"}')
        head = json.loads(content[: int(length or len(content))])
        tail, feed = content[int(length or len(content)) :], {}
        for tensor in head["inputs"]:
            dtype = DTYPES[tensor["datatype"]]
            if length is None:
                feed[tensor["name"]] = np.array(tensor["data"], dtype).reshape(tensor["shape"])
            else:
                size = tensor["parameters"]["binary_data_size"]
                feed[tensor["name"]] = np.frombuffer(tail[:size], dtype).reshape(tensor["shape"])
                tail = tail[size:]
        found = self.served.infer(feed, [o["name"] for o in head.get("outputs", [])])
        binary = {o["name"] for o in head.get("outputs", []) if o.get("parameters", {}).get("binary_data")}
        outputs, parts = [], []
        for name, array in found.items():
            entry = {"name": name, "datatype": NAMES[array.dtype], "shape": list(array.shape)}
            if name in binary and self.served.answers_raw:
                entry["parameters"] = {"binary_data_size": array.nbytes}
                parts.append(array.tobytes())
            else:
                entry["data"] = array.ravel().tolist()
            outputs.append(entry)
        body = json.dumps({"model_name": self.served.name, "outputs": outputs}).encode()
        return self.answer(
            200, b"".join([body, *parts]), {"Inference-Header-Content-Length": len(body)} if parts else {}
        )

    def answer(self, status, content, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)


class Serving:
    """A model on both transports; a context manager. `grpc` and `http` are the URLs."""

    def __init__(self, served):
        self.served = served
        self._grpc = grpc.server(ThreadPoolExecutor(2), handlers=(_Grpc(served),))
        self.grpc = f"grpc://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Http,), {"served": served}))
        self.http = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._grpc.start()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._grpc.stop(0).wait()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
