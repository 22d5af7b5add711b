"""The few calls through which the log touches a disk, so that tests can make any of them fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """What the writer asks of a file system. Every call may raise OSError."""

    def open(self, path: Path) -> int:
        """A descriptor for reading and writing; the file and its folder entry exist durably afterwards."""
        ...

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        ...

    def sync(self, descriptor: int) -> None:
        """Return when everything written is durable."""
        ...

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        ...

    def publish(self, path: Path, data: bytes) -> None:
        """Replace a whole file, so that readers see the old one or the new one."""
        ...


class DiskStorage:
    """The operating system's files."""

    def open(self, path: Path) -> int:
        fresh = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if fresh:
            try:
                sync_folder(path.parent)
            except OSError:
                os.close(descriptor)
                raise
        return descriptor

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            offset, view = offset + written, view[written:]

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def publish(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            self.write(descriptor, data, 0)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
