"""What can go wrong, by what the caller can do about it. Domain code knows no transport; the service maps classes to statuses."""

from __future__ import annotations


class DemurError(Exception):
    """Anything demur refuses. Messages say what was expected, what came, where, and the next step."""


class InvalidObservation(DemurError, ValueError):
    """Signals that do not have the shape, dtype or name the bundle was fitted for. A bad *value* is an abstention instead."""


class UnknownMonitor(DemurError, KeyError):
    """A request for a monitor that is not served here."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0]) if self.args else ""


class ConfigurationError(DemurError, ValueError):
    """A configuration file or environment override that cannot be used."""


class BundleError(DemurError):
    """A bundle that must not be served."""


class DigestMismatch(BundleError):
    """A member, a signature or the manifest does not match its digest."""


class UnsupportedSchema(BundleError):
    """A bundle written for another schema version."""


class SelfTestFailed(BundleError):
    """The graph does not reproduce the bundle's own test vectors on this machine."""


class RollbackRefused(BundleError):
    """A bundle of a lower version than the one that was active."""


class Overloaded(DemurError):
    """Admission limits are reached: try again later."""


class Draining(DemurError):
    """The server is shutting down and takes no new work."""


class AuditUnavailable(DemurError):
    """The audit log cannot take the record and the operator chose to block."""
