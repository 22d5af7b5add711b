"""An inference request in the protocol's JSON form, with Triton's binary extension or without."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from demur.adapters.servers.oip.datatypes import SHARED_MEMORY
from demur.adapters.servers.oip.reading import Asked, AskedOutput, Tensor
from demur.adapters.servers.oip.refusal import names
from demur.adapters.servers.oip.rest import tensor as tensors
from demur.adapters.servers.oip.rest.body import Body, chunks
from demur.adapters.servers.oip.rest.document import Document, Edit, MalformedError


@dataclass(frozen=True)
class InferRequest:
    """A readable request; `outputs` as they stand in it, [] when it names none. Raises: MalformedError when it is none."""

    model: str
    version: str
    body: Body

    @cached_property
    def document(self) -> Document:
        """The JSON part; an empty object for a raw request, which has none."""
        return Document("{}" if self.body.raw else self.body.text, ("inputs", "outputs"))

    @cached_property
    def outputs(self) -> list[Any]:
        """The elements of `outputs`."""
        found = self.document.get("outputs")
        if found is None:
            return []
        if not isinstance(found, list) or not all(
            isinstance(o, dict) and isinstance(o.get("name"), str) for o in found
        ):
            raise MalformedError("outputs: expected a list of objects with names")
        return found

    @property
    def binary_answer(self) -> bool:
        """Whether the client takes binary outputs: so are those that are asked for beside its own."""
        whole = tensors.parameters_of(self.document_parameters).get("binary_data_output") is True
        named = [tensors.parameters_of(o).get("binary_data", whole) is True for o in self.outputs]
        return any(named) if named else whole

    @property
    def of_sequence(self) -> bool:
        """Whether the model keeps state from this request to the next."""
        return tensors.parameters_of(self.document_parameters).get("sequence_id") not in (None, 0, "")

    def mentions(self, name: str) -> bool:
        """Whether the client wrote this word itself, or may have, escaped: an error that repeats it proves nothing then."""
        text = self.body.text
        packed = self.body.binary.decode("latin-1") if '"BYTES"' in text else ""  # strings, which errors may repeat
        return "\\u" in text or names(text, name) or names(packed, name)

    @property
    def document_parameters(self) -> Mapping[str, Any]:
        """The request's own `parameters`, as an element has them."""
        return {"parameters": self.document.get("parameters")}

    def asked(self) -> Asked:
        """What the judge reads of it. Raises: MalformedError."""
        name = self.document.get("id")
        return Asked(
            model=self.model,
            version=self.version,
            id=name if isinstance(name, str) else "",
            outputs=tuple(_asked_output(o) for o in self.outputs),
            size=len(self.body),
            shapes=self._shapes,
            inputs=self._inputs,
        )

    def asking_for(self, names: Sequence[str]) -> Body:
        """The request with these outputs named behind its own; every other character and byte stays."""
        form = {"parameters": {"binary_data": True}} if self.binary_answer else {}
        texts = [json.dumps({"name": name, **form}, separators=(",", ":")) for name in names]
        return replace(self.body, text=self.document.appended("outputs", texts).of(self.body.text))

    def with_inputs(self, arrays: Mapping[str, Any]) -> Body:
        """The request with these arrays in place of its inputs of the same names. Raises: MalformedError."""
        elements = self.document.elements.get("inputs", [])
        edit, parts = Edit(), []
        for element, chunk in zip(elements, chunks([e.value for e in elements], self.body.binary), strict=True):
            name = str(element.value.get("name")) if isinstance(element.value, dict) else ""
            if name in arrays:
                text, chunk = tensors.rewritten(element.value, arrays[name], binary=chunk is not None)  # noqa: PLW2901
                edit.replace(element.start, element.end, text)
            parts.append(chunk or b"")
        return replace(self.body, text=edit.of(self.body.text), binary=b"".join(parts))

    def _shapes(self) -> list[tuple[int, ...]]:
        return [tensors.shape_of(e.value) or () for e in self.document.elements.get("inputs", [])]

    def _inputs(self) -> dict[str, Tensor]:
        elements = [e.value for e in self.document.elements.get("inputs", [])]
        found = [tensors.tensor(e, c) for e, c in zip(elements, chunks(elements, self.body.binary), strict=True)]
        return {t.name: t for t in found}


def _asked_output(output: Mapping[str, Any]) -> AskedOutput:
    said = tensors.parameters_of(output)
    if SHARED_MEMORY in said:
        return AskedOutput(output["name"], "was asked for in shared memory, which demur does not read")
    if said.get("classification"):
        return AskedOutput(output["name"], "was asked for as classification strings, which are no signal")
    return AskedOutput(output["name"])
