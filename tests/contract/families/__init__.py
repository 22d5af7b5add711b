"""Every score under contract, by family; a family is a module with its CASES."""

from tests.contract.entries import Case
from tests.contract.families import (
    bank,
    cost,
    feature,
    head,
    health,
    learned,
    logit,
    modality,
    pixel,
    sigmoid,
    tabular,
    transform,
    views,
)

FAMILIES = (logit, feature, head, bank, health, cost, transform, tabular, views, learned, pixel, modality, sigmoid)
CASES: dict[str, Case] = {name: case for family in FAMILIES for name, case in family.CASES.items()}
assert len(CASES) == sum(len(family.CASES) for family in FAMILIES), "two families use one name"
