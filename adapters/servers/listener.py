"""A gRPC server on one address: how it starts and ends, and which peers it puts up with."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc

from demur.monitor.service.listening import bind

OPTIONS = (
    ("grpc.so_reuseport", 0),  # two servers on one port must be an error, not a lottery
    # A client that is gone without a word gives its places back.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),  # clients may ping more often than by default
)


class Listener:
    """Serves `handlers` at `listen`, at most `calls` at once, each in one of `threads`.

    `credentials` make a TCP address speak TLS; a Unix socket is guarded by its folder's permissions.
    """

    def __init__(
        self,
        name: str,
        listen: str,
        credentials: grpc.ServerCredentials | None,
        handlers: Iterable[grpc.GenericRpcHandler],
        *,
        calls: int,
        threads: int,
        receive_bytes: int,
        send_bytes: int,
    ) -> None:
        self._listen, self._credentials = listen, credentials
        # A thread is made when it is first needed: most of its time it waits.
        self._pool = ThreadPoolExecutor(threads, name)
        self.server = grpc.server(
            self._pool,
            options=(
                ("grpc.max_receive_message_length", receive_bytes),
                ("grpc.max_send_message_length", send_bytes),
                *OPTIONS,
            ),
            maximum_concurrent_rpcs=calls,
        )
        self.server.add_generic_rpc_handlers(tuple(handlers))
        self._address = ""

    @property
    def address(self) -> str:
        """Where clients find it: host:port with the port that was taken, or unix:/path; "" before `start`."""
        return self._address

    def start(self) -> str:
        """Listen and serve; returns the address. Raises: ConfigurationError when the address cannot be listened on."""
        self._address = bind(self.server, self._listen, self._credentials)
        self.server.start()
        return self._address

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Take no new calls, let those under way end within `grace_seconds`, then cancel them."""
        self.server.stop(grace_seconds).wait()
        self._pool.shutdown(wait=True, cancel_futures=True)
