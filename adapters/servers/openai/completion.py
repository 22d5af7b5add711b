"""A chat or text completion, whole or in chunks, as one token stream for each choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from demur.adapters.servers.oip.rest import document
from demur.adapters.servers.oip.rest.document import MalformedError
from demur.adapters.servers.openai.tokens import Tokens, UnreadableAnswerError

NO_LOGPROBS = "no logprobs: ask for logprobs: true"
HOLE = "part of the answer came without logprobs"
CUT = "the answer ended before it was complete"
SAID = (
    "content",
    "refusal",
    "tool_calls",
    "function_call",
)  # what a reader of the answer gets; reasoning is not judged
MOST_CHOICES = 128
DONE = b"[DONE]"


def _lean(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A token of logprobs without its text and bytes: a long answer has 60,000 of them, and what holds no list costs the
    garbage collector nothing (3,000 tokens with 20 alternatives each: 208 to 116 ms).
    """
    found = document.unique(pairs)
    if "logprob" in found:
        return {name: found[name] for name in KEPT if name in found}
    return found


KEPT = ("logprob", "top_logprobs")
LEAN = json.JSONDecoder(object_pairs_hook=_lean)


class Completion:
    """What has come of an answer. `cause` says why it cannot be judged, "" as long as it can.

    Reasoning (`reasoning`, `reasoning_content`) is not part of the answer: chunks that hold nothing else are passed over.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._choices: dict[int, Tokens] = {}
        self._finished: set[int] = set()
        self._done = False
        self._problem = ""
        self.model = ""

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(tokens.size for tokens in self._choices.values())

    @property
    def choices(self) -> list[Tokens]:
        """In the order of their index; empty until one has come."""
        return [self._choices[i] for i in sorted(self._choices)]

    @property
    def cause(self) -> str:
        """Why this answer, if it has ended, cannot be judged."""
        if self._problem:
            return self._problem
        if not self._choices:
            return "the answer has no choices"
        if not self._done and self._finished != set(self._choices):
            return CUT
        return "" if all(self._choices.values()) else NO_LOGPROBS

    def take(self, raw: bytes) -> None:
        """A whole answer."""
        self._read(raw, "message")

    def event(self, data: bytes) -> None:
        """The data of one server-sent event."""
        if data.strip() == DONE:
            self._done = True
        elif self._done:
            self._problem = self._problem or "the answer goes on after [DONE]"
        else:
            self._read(data, "delta")

    def _read(self, raw: bytes, part: str) -> None:
        try:
            read = document.value(raw, LEAN)
        except MalformedError:
            self._problem = self._problem or "the answer is not readable JSON"
            return
        try:
            self._document(read, part)
        except UnreadableAnswerError as error:
            self._problem = self._problem or str(error)

    def _document(self, read: Any, part: str) -> None:
        if not isinstance(read, dict):
            raise UnreadableAnswerError("the answer is not a JSON object")
        if read.get("error"):
            raise UnreadableAnswerError("the answer is an error")
        if isinstance(read.get("model"), str):
            self.model = self.model or read["model"]
        choices = read.get("choices")
        if not isinstance(choices, list):
            raise UnreadableAnswerError("the answer has no list of choices")
        for place, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise UnreadableAnswerError("a choice is not a JSON object")
            self._choice(choice, choice.get("index", place), part)

    def _choice(self, choice: Mapping[str, Any], index: Any, part: str) -> None:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < MOST_CHOICES:
            raise UnreadableAnswerError(f"expected the index of a choice below {MOST_CHOICES}, got {str(index)[:20]}")
        if part == "message" and index in self._choices:
            raise UnreadableAnswerError("two choices have the same index")
        tokens = self._choices.setdefault(index, Tokens(self._most))
        message, logprobs = choice.get(part), choice.get("logprobs")
        said = _says(message) or bool(choice.get("text"))
        before = len(tokens)
        if logprobs is not None and not (_thinks(message) and not said and part == "delta"):
            _add(tokens, logprobs)
        if said and len(tokens) == before:
            raise UnreadableAnswerError(HOLE if before else NO_LOGPROBS)
        if choice.get("finish_reason") is not None:
            self._finished.add(index)


def _says(message: Any) -> bool:
    return isinstance(message, dict) and any(message.get(name) for name in SAID)


def _thinks(message: Any) -> bool:
    return isinstance(message, dict) and bool(message.get("reasoning") or message.get("reasoning_content"))


def _add(tokens: Tokens, logprobs: Any) -> None:
    """`logprobs` of chat completions (content, refusal), or of text completions (token_logprobs, top_logprobs)."""
    if not isinstance(logprobs, dict):
        raise UnreadableAnswerError("expected logprobs as a JSON object")
    if "token_logprobs" in logprobs:
        _add_text(tokens, logprobs)
        return
    for name in ("content", "refusal"):
        for entry in _list(logprobs.get(name), name):
            if not isinstance(entry, dict):
                raise UnreadableAnswerError("a token of logprobs is not a JSON object")
            top = _list(entry.get("top_logprobs"), "top_logprobs")
            if not all(isinstance(t, dict) for t in top):
                raise UnreadableAnswerError("an alternative of logprobs is not a JSON object")
            tokens.add(entry.get("logprob"), [t.get("logprob") for t in top])


def _add_text(tokens: Tokens, logprobs: Mapping[str, Any]) -> None:
    own = _list(logprobs["token_logprobs"], "token_logprobs")
    top = _list(logprobs.get("top_logprobs"), "top_logprobs") or [None] * len(own)
    if len(top) != len(own):
        raise UnreadableAnswerError(f"expected top_logprobs for {len(own)} tokens, got {len(top)}")
    for value, alternatives in zip(own, top, strict=True):
        if not isinstance(alternatives, dict | None):
            raise UnreadableAnswerError("the alternatives of a token are not a JSON object")
        tokens.add(value, (alternatives or {}).values())


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise UnreadableAnswerError(f"expected {name} as a list, got {type(value).__name__}")
    return value
