"""A plain gRPC pass-through, and a server behind it: what standing in the middle costs at least. Run as processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
THREADS = 64
ADDED = b"2\n\n\x08features"  # one more output asked for


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """One behaviour for every method, bytes in and bytes out; streams message by message, as MLServer's are."""

    def __init__(self, behaviour: Any) -> None:
        self._behaviour = behaviour

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == STREAM_METHOD:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._behaviour)

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        return (self._behaviour(request, context) for request in requests)


def relay(target: str, more: bytes = b"") -> Any:
    """Sends each request on, with `more` behind it, and its answer back."""
    forward = grpc.insecure_channel(target, OPTIONS).unary_unary(METHOD)

    def behaviour(request: bytes, _context: Any) -> Any:
        return forward(request + more if more else request)

    return behaviour


def answers(path: str) -> Any:
    """The same answer to every request, as a model that takes no time."""
    content = Path(path).read_bytes()

    def behaviour(_request: bytes, _context: Any) -> bytes:
        return content

    return behaviour


def main(kind: str, argument: str) -> None:
    kinds = {"relay": relay, "adding": lambda target: relay(target, ADDED), "answers": answers}
    behaviour = kinds[kind](argument)
    server = grpc.server(ThreadPoolExecutor(THREADS), handlers=(Handler(behaviour),), options=OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the parent closes the pipe
    server.stop(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
