"""One HTTP exchange with a judged model, whatever its format: the contract between the conversation and each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from demur.adapters.servers.ext_proc.body import Body
from demur.adapters.servers.oip.withheld import Withheld
from demur.monitor.verdicts import Verdicts

PROTOCOL = "ext_proc"


@dataclass(frozen=True, slots=True)
class Change:
    """Of a message under way: another body, and headers that go with it; None and empty leave it as it is."""

    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """`withheld` goes out in place of the answer; `verdicts` are what an annotation tells; `change` of the answer."""

    verdicts: Verdicts | None = None
    withheld: Withheld | None = None
    change: Change = Change()


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Of one judgement: until when it is of use (`time.perf_counter`'s clock, None: for ever), whether anybody can act on
    it (`watching`: nobody), whether the answer can be changed, why it cannot be judged, if that is known, and whose trace
    and request it belongs to.
    """

    deadline: float | None = None
    watching: bool = False
    changeable: bool = True
    cause: str = ""
    traceparent: str = ""
    request: str = ""


class JudgedExchange(Protocol):
    """Made for each request of a judged route; used by one thread at a time, but for `judge` that came too late."""

    @property
    def known(self) -> bool:
        """Whether a monitor stands behind its model; True as long as the model is not known."""
        ...

    @property
    def model(self) -> str:
        """The model's name as the client gave it; "" as long as it is not known."""
        ...

    @property
    def monitor(self) -> str:
        """The monitor's name; "" as long as the model is not known."""
        ...

    @property
    def enforcing(self) -> bool:
        """Whether an answer that cannot be judged must not reach the client."""
        ...

    @property
    def hopeless(self) -> str:
        """Why no answer of it can be judged, or ""."""
        ...

    def ask(self, body: Body, *, changeable: bool) -> Callable[[], Change]:
        """Read the request; the function then says what to change in it, and is called only if that is still of use."""
        ...

    def unread(self, cause: str) -> None:
        """The request could not be read, for this cause."""
        ...

    def begin(self, headers: Mapping[str, str]) -> None:
        """The headers of a successful answer."""
        ...

    def progress(self, body: Body) -> int:
        """Take from the answer's body what is complete in itself; how many bytes are kept of it."""
        ...

    def judge(self, body: Body, about: Circumstances) -> Judged:
        """The verdict on the answer, recorded. Never raises."""
        ...

    def unjudged(self, cause: str) -> Judged:
        """What to do when `judge` gave nothing, for this cause. Nothing is recorded."""
        ...

    def failed(self, status: int, body: Body) -> None:
        """Upstream answered with an error."""
        ...

    @property
    def curious(self) -> bool:
        """Whether it wants to see upstream's errors."""
        ...

    def refusal(self, withheld: Withheld) -> bytes:
        """The body, JSON, of an answer that withholds the model's."""
        ...
