"""How levels are printed: a promise exactly as it was made, a bound never below its value."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from demur.detectors.promises.promise import exact

if TYPE_CHECKING:
    from demur.detectors.promises.promise import Level

_MOST_PLACES = 6
_FLOAT_PLACES = 18  # say any level that a person wrote as a float above a half


def percent(level: Level, places: int = 1) -> str:
    """A level as a percentage with at least `places` decimals, and as many more as say it exactly (at most 6, rounded up).

    Where that would be 100 %, with which nothing is promised, as many as the level has.
    """
    share = exact(level) * 100
    near = share > 100 - Fraction(1, 10 ** (places + 1))
    for shown in range(places, _FLOAT_PLACES if near else _MOST_PLACES):
        if (share * 10**shown).denominator == 1:
            return f"{Decimal(int(share * 10**shown)).scaleb(-shown):.{shown}f} %"
    return percent_up(float(level), places + 1)


def decimal(level: Level) -> str:
    """A level as a decimal fraction, as a person writes it; one that does not end in 6 places, rounded up to them."""
    return f"{Decimal(math.ceil(exact(level) * 10**_MOST_PLACES)).scaleb(-_MOST_PLACES).normalize():f}"


def percent_up(level: float, places: int = 1) -> str:
    """A bound as a percentage, rounded up so that "at most" stays true."""
    return _rounded(level, places, ROUND_CEILING)


def percent_down(level: float, places: int = 1) -> str:
    """A lower bound as a percentage, rounded down."""
    return _rounded(level, places, ROUND_FLOOR)


def _rounded(level: float, places: int, rounding: str) -> str:
    # Twelve digits first: 0.07 * 100 is 7.000000000000001 in binary, which would round up to 7.1.
    share = Context(prec=12).create_decimal_from_float(level).scaleb(2)
    return f"{share.quantize(Decimal(1).scaleb(-places), rounding=rounding):.{places}f} %"


def listed(names: list[str]) -> str:
    """Names as a sentence lists them: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
