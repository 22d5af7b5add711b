"""The list of known deviations is what the tests show."""

from __future__ import annotations

import re
from pathlib import Path

from tests.differential.deviations import DEVIATIONS

TESTS = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_py*.py"))


def test_every_deviation_names_a_test_of_its_own():
    named = [d.test for d in DEVIATIONS.values()]
    assert len(set(named)) == len(named)
    assert not set(named) - set(re.findall(r"^def (\w+)\(", TESTS, re.MULTILINE))
