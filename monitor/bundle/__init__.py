"""The deployable file: data, not code. One uncompressed zip whose manifest lists every member's digest."""

from demur.monitor.bundle.archive import MANIFEST, SIGNATURE
from demur.monitor.bundle.bundle import Bundle
from demur.monitor.bundle.manifest import Manifest

__all__ = ["MANIFEST", "SIGNATURE", "Bundle", "Manifest"]
