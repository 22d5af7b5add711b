"""A bare gRPC server that sends every request back: what any sidecar costs at least. Run as a process of its own."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

METHOD = "/echo/Echo"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Any method, bytes in, the same bytes out."""

    def service(self, handler_call_details: Any) -> Any:  # noqa: ARG002
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


def main(threads: int) -> None:
    server = grpc.server(ThreadPoolExecutor(threads), handlers=(Echo(),), options=OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the parent closes the pipe
    server.stop(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
