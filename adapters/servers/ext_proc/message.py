"""One HTTP message of an exchange, as it comes: its headers first, its body in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from demur.adapters.servers.ext_proc import headers
from demur.adapters.servers.ext_proc.body import Body, UnreadableBodyError
from demur.adapters.servers.ext_proc.exchange import JudgedExchange


@dataclass(eq=False)
class Message:
    """`headers` by lower-case name, and the `body` so far."""

    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """An answer's status code; 0, which is no error, when there is none that can be read."""
        return headers.status(self.headers)

    @property
    def whole(self) -> bool:
        """Whether all of the body came: it ended, or is as long as the headers say."""
        said = self.headers.get("content-length", "")
        return self.body.ended or (said.isascii() and said.isdigit() and int(said) == self.body.raw_size)

    def end(self) -> None:
        """No more of the body will come, whether or not that was said before."""
        if not self.body.ended:
            self.body.end()

    def read_by(self, exchange: JudgedExchange) -> None:
        """Let the exchange take from an answer's body what is complete in itself; a body that it cannot read is spoilt."""
        if self.body.cause:
            return
        try:
            self.body.hold(exchange.progress(self.body))
        except UnreadableBodyError as error:
            self.body.spoil(str(error))
