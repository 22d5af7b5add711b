"""An inference answer in the protocol's JSON form, and the changes made to it that leave everything else as it came."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.servers.oip import annotation
from demur.adapters.servers.oip.reading import Tensor, place_of
from demur.adapters.servers.oip.rest import tensor as tensors
from demur.adapters.servers.oip.rest.body import Body, chunks
from demur.adapters.servers.oip.rest.document import Document, Edit, MalformedError
from demur.monitor.verdicts import Verdicts

PREFIX = "demur."


class InferAnswer:
    """A readable answer. Raises: MalformedError when the body is none."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.document = Document(body.text, ("outputs",))
        self.outputs = self.document.elements.get("outputs", [])
        if "outputs" not in self.document.elements:
            raise MalformedError("expected a list of outputs")
        if not all(isinstance(o.value, dict) for o in self.outputs):
            raise MalformedError("outputs: expected objects")
        self.chunks = chunks([o.value for o in self.outputs], body.binary)

    @property
    def size(self) -> int:
        """Of the message, in bytes (characters of its JSON part)."""
        return len(self.body)

    @cached_property
    def names(self) -> Sequence[str]:
        """Of its outputs, in order; "" for one without."""
        return [str(o.value.get("name", "")) for o in self.outputs]

    def shapes(self) -> Iterable[Sequence[int]]:
        """What its outputs claim to be."""
        return (tensors.shape_of(o.value) or () for o in self.outputs)

    def tensor(self, name: str) -> Tensor:
        """Raises: UnreadableOutputError when the output is absent, ambiguous, or in shared memory."""
        place = place_of(name, self.names)
        return tensors.tensor(self.outputs[place].value, self.chunks[place])

    def without(self, names: Collection[str]) -> Body:
        """Without the outputs of these names and their bytes. The binary extension goes when nothing is left in it."""
        places = [i for i, name in enumerate(self.names) if name in names]
        if not places:
            return self.body
        kept = [c for i, c in enumerate(self.chunks) if i not in places]
        binary = b"".join(c for c in kept if c is not None)
        extended = self.body.extended and (not self.body.binary or any(c is not None for c in kept))
        return Body(self.document.without("outputs", places).of(self.body.text), binary, extended)

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> Body:
        """With these arrays in place of its outputs of the same names."""
        edit, parts = Edit(), []
        for name, element, chunk in zip(self.names, self.outputs, self.chunks, strict=True):
            own = chunk
            if name in arrays:
                text, own = tensors.rewritten(element.value, arrays[name], binary=chunk is not None)
                edit.replace(element.start, element.end, text)
            parts.append(own or b"")
        return replace(self.body, text=edit.of(self.body.text), binary=b"".join(parts))

    def annotated(self, values: Mapping[str, str]) -> Body:
        """With these parameters; those of the same prefix that upstream wrote are overwritten."""
        said = self.document.members.get("parameters")
        if said is None:
            edit = self.document.member("parameters", _text(dict(values)))
        elif said.value is None:
            edit = Edit().replace(said.start, said.end, _text(dict(values)))
        elif isinstance(said.value, dict):
            edit = Edit().replace(said.start, said.end, _merged(self.body.text[said.start : said.end], values))
        else:
            return self.body
        return replace(self.body, text=edit.of(self.body.text))

    def with_tensors(self, verdicts: Verdicts, more: Mapping[str, NDArray[Any]]) -> Body:
        """With the verdicts, and `more` arrays of float32 by their short names, as output tensors behind its own, always in
        JSON; upstream's of the same names are taken out.
        """
        bare = InferAnswer(self.without([n for n in self.names if n.startswith(PREFIX)]))
        columns = (*annotation.columns(verdicts), *((name, "FP32", values) for name, values in more.items()))
        texts = [_output(name, datatype, values) for name, datatype, values in columns]
        return replace(bare.body, text=bare.document.appended("outputs", texts).of(bare.body.text))


def annotated(
    answer: InferAnswer,
    verdicts: Verdicts,
    largest_bytes: int,
    *,
    tensors: Mapping[str, NDArray[Any]] | None,
    more: Mapping[str, str],
) -> Body:
    """The answer with `demur.*` parameters; with `tensors` not None also as output tensors, these among them. Beyond `largest_bytes` what there is for each
    row is left out and `demur.cause` says so; beyond it even so, the answer goes out as it came.
    """
    if tensors is not None:
        whole = InferAnswer(answer.with_tensors(verdicts, tensors)).annotated(
            {**annotation.parameters(verdicts, per_row=False), **more}
        )
        if len(whole) <= largest_bytes:
            return whole
    for values in (annotation.parameters(verdicts), annotation.shortened(verdicts)):
        whole = answer.annotated({**values, **more})
        if len(whole) <= largest_bytes:
            return whole
    return answer.body


def _merged(text: str, values: Mapping[str, str]) -> str:
    inner = Document(text)
    edit = Edit()
    for key, value in inner.members.items():
        if key.startswith(PREFIX):
            edit.replace(value.start, value.end, _text(values.get(key, "")))
    more = {key: value for key, value in values.items() if key not in inner.members}
    if more:
        comma = "," if inner.members else ""
        edit.replace(inner.last, inner.last, f"{comma}{_text(more)[1:-1]}")
    return edit.of(text)


def _output(name: str, datatype: str, values: NDArray[Any]) -> str:
    """An element; what is not finite is null, because strict readers of JSON know no NaN."""
    data = values.ravel().astype(np.float64).tolist() if datatype == "FP32" else values.ravel().tolist()
    data = [None if isinstance(v, float) and not np.isfinite(v) else v for v in data]
    return _text({"name": PREFIX + name, "datatype": datatype, "shape": list(values.shape), "data": data})


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
