"""The client's side of one HTTP exchange: its body within limits, its patience, and the answer sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from time import monotonic
from typing import Any

from demur.adapters.servers.oip.rest import headers
from demur.adapters.servers.oip.rest.connection import SLOWEST
from demur.adapters.servers.oip.rest.headers import Headers
from demur.adapters.servers.oip.rest.reply import RefusedError, Reply

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class GoneError(Exception):
    """The client closed its connection."""


class HttpClient:
    """One request, as ASGI hands it over."""

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, *, largest_bytes: int, patience_seconds: float
    ) -> None:
        self._receive, self._send = receive, send
        self._largest, self._patience = largest_bytes, patience_seconds
        self.headers: Headers = list(scope["headers"])
        self.method: str = scope["method"].upper()  # as httpx sends it: `post` is judged as the POST that it becomes
        self.raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        query: bytes = scope.get("query_string", b"")
        self.target = self.raw_path + (b"?" + query if query else b"")
        self._read = asyncio.Event()
        self.started = False

    @property
    def carries_body(self) -> bool:
        """Whether a body was announced."""
        return any(k.lower() in (b"content-length", b"transfer-encoding") for k, _ in self.headers)

    @property
    def framed_twice(self) -> bool:
        """Whether the head says in two ways where the body ends: other servers on the way may have believed the other one."""
        return {b"content-length", b"transfer-encoding"} <= {k.lower() for k, _ in self.headers}

    async def body(self) -> AsyncIterator[bytes]:
        """The body in the parts it comes in. Raises: RefusedError 413 beyond the limit, 408 when it stops coming or comes slower
        than SLOWEST, GoneError.
        """
        length = headers.value(self.headers, b"content-length") or ""
        if length.isdigit() and len(length) < 20 and int(length) > self._largest:
            raise self._too_large(f"Content-Length {length}")
        size, more, waited = 0, True, 0.0
        while more:
            began = monotonic()
            event = await self._next(self._patience + min(0.0, size / SLOWEST - waited))
            waited += monotonic() - began
            if event["type"] == "http.disconnect":
                raise GoneError
            part: bytes = event.get("body", b"")
            size += len(part)
            if size > self._largest:
                raise self._too_large("the body")
            more = event.get("more_body", False)
            if part:
                yield part
        self._read.set()

    async def whole(self) -> bytes:
        """The body. Raises as `body`."""
        return b"".join([part async for part in self.body()])

    async def unless_gone(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this, and stop doing it when the client goes away. Raises: GoneError then."""
        doing, going = asyncio.create_task(work), asyncio.create_task(self._gone())
        try:
            await asyncio.wait((doing, going), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                doing.cancel()
                await asyncio.wait((doing,))
                raise GoneError
            doing.result()
        finally:
            going.cancel()
            doing.cancel()

    async def answer(self, reply: Reply) -> None:
        """Send a whole answer."""
        await self.start(reply.status, reply.headers)
        await self.part(reply.content, more=False)

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, content: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def _next(self, seconds: float) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                return await self._receive()
        except TimeoutError as error:
            raise RefusedError(
                408, f"no more of the body came for {self._patience:g} s, or too slowly", "invalid"
            ) from error

    async def _gone(self) -> None:
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _too_large(self, what: str) -> RefusedError:
        return RefusedError(
            413, f"{what} exceeds limits.message_bytes = {self._largest}; raise it or send less", "invalid"
        )
