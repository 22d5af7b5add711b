"""One row through a graph, in buffers that stay bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Lane: TypeAlias = Callable[[Arrays], list[NDArray[Any]] | None]


def make_lane(runtime: Any, session: Any, options: Any, inputs: Arrays, outputs: Arrays) -> Lane:
    """A call for one thread, whose inputs and outputs are bound to the session once: arrays by name to every output in order.

    It gives None, with nothing run, for arrays of other names, shapes or types than `inputs`. A call by name makes a
    tensor of every array and an array of every tensor: 0.8 µs of 2.2 for one operator, 1.8 of 16 for a monitor of four
    scores.
    """
    held = [(name, np.empty_like(array, order="C")) for name, array in inputs.items()]
    found = [np.empty_like(array) for array in outputs.values()]
    binding = session.io_binding()
    for name, array in held:
        binding.bind_ortvalue_input(name, runtime.OrtValue.ortvalue_from_numpy(array))
    for name, array in zip(outputs, found, strict=True):
        binding.bind_ortvalue_output(name, runtime.OrtValue.ortvalue_from_numpy(array))
    places = [(name, array, array.shape, array.dtype) for name, array in held]
    call, bound = session._sess.run_with_iobinding, binding._iobinding  # noqa: SLF001
    copies, count = [array.copy for array in found], len(places)

    def run(feed: Arrays) -> list[NDArray[Any]] | None:
        if len(feed) != count:
            return None
        for name, array, shape, dtype in places:
            given = feed.get(name)
            if given is None or given.shape != shape or given.dtype != dtype:
                return None
            array[...] = given
        call(bound, options)
        answer = []
        for copied in copies:  # a comprehension or `map` takes 0.07 µs more
            answer.append(copied())  # noqa: PERF401
        return answer

    return run


def no_lane(_feed: Arrays) -> list[NDArray[Any]] | None:
    """For a runtime whose bound calls cannot be relied on."""
    return None
