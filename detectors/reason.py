"""Why a unit is not accepted: one bit per kind, the same bits in the graph, on the wire and in the audit log."""

import enum


class Reason(enum.IntFlag):
    """Kinds of reasons against accepting; 0 means ACCEPT."""

    NOVEL = 1
    AMBIGUOUS = 2
    OUT_OF_SCOPE = 4
    REFUSAL = 8
    DECEPTION = 16
    UNHEALTHY = 32
    INVALID = 64
    UNAVAILABLE = 128
