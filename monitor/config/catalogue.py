"""The types that scores may have; imported only to say what is wrong with a policy, for it takes a moment."""

from __future__ import annotations

from collections.abc import Mapping

from demur.monitor.config.fault import did_you_mean


def check_types(types: Mapping[str, str]) -> None:
    """Raises: ValueError for a score, by its name, whose type is not in the catalogue."""
    from demur.detectors.scores import SCORES, STREAM_SCORES

    known = [*SCORES, *STREAM_SCORES]
    for name, kind in types.items():
        if kind not in known:
            raise ValueError(f"score {name}: {kind!r} is not in the catalogue, scores.md{did_you_mean(kind, known)}")
