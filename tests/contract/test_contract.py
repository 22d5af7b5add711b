"""Every law of the contract for every score of the table."""

import pytest

from tests.contract.checks import yield_checks
from tests.contract.entries import entries, test_every_score_of_the_table_is_under_contract  # noqa: F401

CASES = [(entry, check) for entry in entries() for check in yield_checks()]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}:{check.__name__}" for name, check in CASES])
def test_contract(name, check):
    check(entries()[name])
