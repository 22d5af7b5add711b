"""The inference server's HTTP side: requests forwarded as they are, answers as they come."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from demur.adapters.servers.oip.renewal import Renewed
from demur.adapters.servers.oip.rest.headers import Headers
from demur.adapters.servers.oip.rest.reply import RefusedError, Reply
from demur.monitor.config.rest import RestProxyConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.service.tls import read_authorities

# Below the 5 s after which uvicorn, and so MLServer and KServe, close an idle connection: reusing one at that moment fails.
IDLE_SECONDS = 4.0


class HttpUpstream:
    """Connections to the server. No redirects, cookies or proxies of the environment: this is a proxy, not a browser.

    A changed `upstream_tls_ca` is trusted from the next connection on.
    """

    def __init__(self, config: RestProxyConfig, *, message_bytes: int) -> None:
        try:
            self._url = httpx.URL(config.upstream)
        except httpx.InvalidURL as error:
            raise ConfigurationError(
                f"proxy.rest.upstream: expected http(s)://host:port, got {config.upstream} ({error})"
            ) from error
        self._message_bytes = message_bytes
        self._closing: set[asyncio.Task[None]] = set()
        self._transport = Renewed(config.upstream_tls_ca, lambda: _transport(config), self._close_later)
        self._timeout = httpx.Timeout(config.timeout_seconds, connect=config.connect_seconds).as_dict()

    @asynccontextmanager
    async def open(
        self, method: str, target: bytes, headers: Headers, content: bytes | AsyncIterator[bytes] | None
    ) -> AsyncIterator[httpx.Response]:
        """The answer's head; its body is read by whoever wants it. Leaving early closes the connection.

        Raises: RefusedError 502 or 504 when there is no answer.
        """
        request = httpx.Request(
            method,
            self._url,
            headers=[(b"Host", self._url.netloc), *headers],
            content=content,
            extensions={"timeout": self._timeout, "target": target},
        )
        lease = self._transport.lease()
        try:
            with _blamed(self._url):
                response = await lease.held.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            lease.let_go()

    async def whole(self, method: str, target: bytes, headers: Headers, content: bytes) -> Reply:
        """The answer with its body as it was sent, coded or not.

        Raises: RefusedError 502 when it is larger than the message limit, 502 or 504 when there is none.
        """
        async with self.open(method, target, headers, content) as response:
            parts, size = [], 0
            async for part in self.parts(response):
                size += len(part)
                if size > self._message_bytes:
                    raise RefusedError(
                        502, f"upstream's answer exceeds limits.message_bytes = {self._message_bytes}; raise it"
                    )
                parts.append(part)
            return Reply(response.status_code, response.headers.raw, b"".join(parts))

    async def parts(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The body as it comes, coded or not. Raises: RefusedError 502 or 504 when it breaks off.

        A connection that brought a 5xx is not used again: uvicorn closes it after an exception in the application, which
        would take the next request with it. It is left before its end is seen, and so closed.
        """
        length = response.headers.get("content-length", "")
        left = int(length) if response.status_code >= 500 and length.isdigit() else -1
        with _blamed(self._url):
            async for part in response.aiter_raw():
                yield part
                left -= len(part)
                if left == 0:
                    return

    async def close(self) -> None:
        """Close idle connections."""
        self._transport.close()
        await asyncio.gather(*self._closing)

    def _close_later(self, transport: httpx.AsyncHTTPTransport) -> None:
        task = asyncio.get_running_loop().create_task(transport.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _blamed:  # noqa: N801  reads as a statement
    """Turns the transport's failures into statuses that say who failed."""

    def __init__(self, url: httpx.URL) -> None:
        self._where = f"{url.scheme}://{url.netloc.decode()}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, failure: BaseException | None, _trace: object) -> None:
        if isinstance(failure, httpx.TimeoutException):
            raise RefusedError(
                504, f"upstream {self._where} did not answer in time ({type(failure).__name__})"
            ) from failure
        if isinstance(failure, httpx.TransportError):
            raise RefusedError(502, f"no answer from upstream {self._where} ({type(failure).__name__})") from failure


def _transport(config: RestProxyConfig) -> httpx.AsyncHTTPTransport:
    limits = httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS)
    return httpx.AsyncHTTPTransport(verify=_trust(config), limits=limits)


def _trust(config: RestProxyConfig) -> ssl.SSLContext | bool:
    if not config.upstream.startswith("https:"):
        return False
    if config.upstream_tls_ca is None:
        return ssl.create_default_context()
    name = "proxy.rest.upstream_tls_ca"
    read_authorities(config.upstream_tls_ca, name)
    try:
        return ssl.create_default_context(cafile=str(config.upstream_tls_ca))
    except OSError as error:  # SSLError is one too
        raise ConfigurationError(f"{name}: {config.upstream_tls_ca} cannot be used ({error})") from error
