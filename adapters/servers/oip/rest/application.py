"""The proxy as an ASGI application: `infer` of mapped models is judged, everything else passes through as it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from demur.adapters.servers.oip.judge import Judge
from demur.adapters.servers.oip.places import CrowdedError, Places
from demur.adapters.servers.oip.reading import Asked
from demur.adapters.servers.oip.rest import headers
from demur.adapters.servers.oip.rest.client import GoneError, HttpClient, Receive, Send
from demur.adapters.servers.oip.rest.inference import PROTOCOL, Inference
from demur.adapters.servers.oip.rest.path import Target, target
from demur.adapters.servers.oip.rest.reply import RefusedError, error
from demur.adapters.servers.oip.rest.upstream import HttpUpstream

LOG = logging.getLogger("demur.oip")
UNREAD = (400, 408, 413)  # statuses of demur's own for requests that were not read to their end


class RestApplication:
    """One proxy; at most `concurrent` exchanges at once, and of one model or path three quarters of them: the others are
    refused with 503.
    """

    def __init__(
        self,
        upstream: HttpUpstream,
        judge: Judge,
        inference: Inference,
        *,
        reads_all: bool,
        concurrent: int,
        message_bytes: int,
        patience_seconds: float,
    ) -> None:
        self._upstream, self._judge, self._inference = upstream, judge, inference
        self._reads_all = reads_all  # unmapped models too: their answers are annotated
        self._concurrent, self._message_bytes, self._patience = concurrent, message_bytes, patience_seconds
        self._open, self._places = 0, Places(concurrent)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One exchange."""
        if scope["type"] != "http":
            return
        client = HttpClient(scope, receive, send, largest_bytes=self._message_bytes, patience_seconds=self._patience)
        self._open += 1
        try:
            await client.unless_gone(self._answered(client))
        except GoneError:
            LOG.debug("a client went away")
        except RefusedError as refused:
            await self._refused(client, refused)
        except asyncio.CancelledError:
            raise
        except Exception:
            LOG.exception("an exchange failed")
            await self._refused(
                client, RefusedError(500, "this exchange failed; the server's log has the details", "internal")
            )
        finally:
            self._open -= 1

    async def _answered(self, client: HttpClient) -> None:
        if self._open > self._concurrent:
            raise RefusedError(
                503, f"limits.concurrent_rpcs = {self._concurrent} exchanges are open; try again", "overloaded"
            )
        if not client.raw_path.startswith(b"/") and client.raw_path != b"*":
            raise RefusedError(400, "expected a path as the request's target", "invalid")
        if client.framed_twice:
            raise RefusedError(400, "expected Content-Length or Transfer-Encoding, got both", "invalid")
        found = target(client.raw_path) if client.method == "POST" else None
        try:
            with self._places.one(client.raw_path if found is None else found.model):
                await self._forwarded(client, found)
        except CrowdedError as error:
            raise RefusedError(503, str(error), "overloaded") from error

    async def _forwarded(self, client: HttpClient, found: Target | None) -> None:
        if found is not None and found.infer and (self._reads_all or self._mapped(found)):
            await client.answer(await self._inference.reply(client, found))
        else:
            await self._passed(client, found)

    def _mapped(self, found: Target) -> bool:
        return self._judge.plan(Asked(model=found.model, version=found.version)).model is not None

    async def _passed(self, client: HttpClient, found: Target | None) -> None:
        """Bodies of both sides go through part by part."""
        if not client.carries_body:
            await client.whole()
        own = headers.passed_on(client.headers, headers.REQUESTS_OWN)
        content = client.body() if client.carries_body else None
        async with self._upstream.open(client.method, client.target, own, content) as response:
            if found is not None and 200 <= response.status_code < 300:
                refusal = await self._inference.beside(client, found)
                if refusal is not None:
                    await client.answer(refusal)
                    return
            await client.start(response.status_code, headers.passed_on(response.headers.raw))
            async for part in self._upstream.parts(response):
                await client.part(part, more=True)
            await client.part(b"", more=False)

    async def _refused(self, client: HttpClient, refused: RefusedError) -> None:
        self._judge.tell("", refused.kind or "upstream", PROTOCOL)
        if not client.started:
            # Where a body may still be under way, the next request must not be looked for behind it.
            last = [(b"connection", b"close")] if refused.status in UNREAD else []
            await client.answer(error(refused.status, f"demur: {refused}", last))
