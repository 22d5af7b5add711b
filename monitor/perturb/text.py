"""Perturbations of text: what keyboards, people, pipelines and attackers do to it."""

from __future__ import annotations

import string

import numpy as np

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.features import some

Rng = np.random.Generator
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
CONFUSABLES = dict(zip("aceopxysijhABCEHIKMNOPTXYZ", "асеорхуѕіјһАВСЕНІКМΝОРТХΥΖ", strict=True))
INVISIBLE = "\u200b\u200c\u200d\u2060"
NOISE = string.ascii_letters + string.digits + string.punctuation


def _neighbours() -> dict[str, str]:
    near: dict[str, str] = {}
    for number, row in enumerate(KEYBOARD):
        for place, letter in enumerate(row):
            below = KEYBOARD[number + 1][max(0, place - 1) : place + 1] if number + 1 < len(KEYBOARD) else ""
            above = KEYBOARD[number - 1][place : place + 2] if number else ""
            near[letter] = row[max(0, place - 1) : place] + row[place + 1 : place + 2] + above + below
    return near


NEIGHBOURS = _neighbours()


def typos(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A share of the letters is mistyped: a neighbouring key, dropped, or struck twice, with equal chances."""
    letters = list(text)
    kinds, keys = rng.integers(0, 3, len(letters)), rng.random(len(letters))
    for place in _chosen([i for i, c in enumerate(letters) if c.lower() in NEIGHBOURS], share, rng):
        letters[place] = _mistyped(letters[place], int(kinds[place]), float(keys[place]))
    return "".join(letters)


def _mistyped(letter: str, kind: int, key: float) -> str:
    if kind:
        return "" if kind == 1 else 2 * letter
    near = NEIGHBOURS[letter.lower()]
    struck = near[int(key * len(near))]
    return struck.upper() if letter.isupper() else struck


def case(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A share of the letters changes between upper and lower case."""
    letters = list(text)
    for place in _chosen([i for i, c in enumerate(letters) if c.swapcase() != c], share, rng):
        letters[place] = letters[place].swapcase()
    return "".join(letters)


def whitespace(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """At a share of the characters: a space goes, any other character gets one behind it."""
    letters = list(text)
    for place in _chosen(list(range(len(letters))), share, rng):
        letters[place] = "" if letters[place].isspace() else letters[place] + " "
    return "".join(letters)


def homoglyphs(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A share of the letters that have one becomes its Cyrillic or Greek look-alike."""
    letters = list(text)
    for place in _chosen([i for i, c in enumerate(letters) if c in CONFUSABLES], share, rng):
        letters[place] = CONFUSABLES[letters[place]]
    return "".join(letters)


def invisible(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A zero-width character behind a share of the characters."""
    letters = list(text)
    marks = rng.integers(0, len(INVISIBLE), len(letters))
    for place in _chosen(list(range(len(letters))), share, rng):
        letters[place] += INVISIBLE[marks[place]]
    return "".join(letters)


def character_noise(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A share of the characters becomes another printable ASCII character."""
    letters = list(text)
    keys = rng.integers(0, len(NOISE) - 1, len(letters))
    for place in _chosen(list(range(len(letters))), share, rng):
        others = NOISE.replace(letters[place], "")
        letters[place] = others[keys[place]]
    return "".join(letters)


def word_drop(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A share of the words is left out."""
    words = text.split(" ")
    gone = set(_chosen(list(range(len(words))), share, rng))
    return " ".join(word for place, word in enumerate(words) if place not in gone)


def word_swap(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A share of the words exchange their places in a ring."""
    words = text.split(" ")
    places = _chosen(list(range(len(words))), share, rng)
    moved = [words[place] for place in (*places[1:], *places[:1])]
    for place, word in zip(places, moved, strict=True):
        words[place] = word
    return " ".join(words)


def word_duplicate(text: str, share: float, rng: Rng, _context: Context | None) -> str:
    """A share of the words stands twice."""
    words = text.split(" ")
    for place in _chosen([i for i, word in enumerate(words) if word], share, rng):
        words[place] += " " + words[place]
    return " ".join(words)


def truncate(text: str, share: float, _rng: Rng, _context: Context | None) -> str:
    """A share of the characters is cut from the end."""
    return text[: len(text) - round(share * len(text))]


def _chosen(places: list[int], share: float, rng: Rng) -> list[int]:
    return [places[i] for i in some(len(places), share, rng)] if places else []
