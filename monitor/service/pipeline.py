"""A bounded line of answers between the thread that reads frames and the one that writes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Pipeline(Generic[T]):
    """First in, first out. `put` waits while it is full, so a caller that does not read its answers stops being read."""

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._change = threading.Condition()
        self._finished = self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, item: T) -> bool:
        """Append; False when nobody reads any more."""
        with self._change:
            self._change.wait_for(lambda: self._closed or len(self._items) < self._size)
            if self._closed:
                return False
            self._items.append(item)
            self._change.notify_all()
            return True

    def finish(self) -> None:
        """No more items will come; what is there is still read."""
        with self._change:
            self._finished = True
            self._change.notify_all()

    def close(self) -> None:
        """Stop at once, on both ends."""
        with self._change:
            self._closed = True
            self._items.clear()
            self._change.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._finished or self._closed)
                if not self._items:
                    return
                item = self._items.popleft()
                self._change.notify_all()
            yield item
