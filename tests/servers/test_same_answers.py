"""The same client program prints the same bytes with and without demur in between, and demur judged every row of it."""

from __future__ import annotations

import pytest

from tests.servers.conftest import Place
from tests.servers.processes import both

pytestmark = pytest.mark.servers

ROWS = 9  # in few.npy: six known digits, three unseen ones
WAYS = {
    "mlserver": [
        *(("triton_grpc", model, way) for model in ("digits", "forest") for way in ("named", "all", "compressed")),
        *(("triton_http", model, way) for model in ("digits", "forest") for way in ("named", "named-compressed")),
        ("triton_http", "digits", "all"),
        ("kserve_grpc", "digits", "named"),
        ("kserve_grpc", "digits", "typed"),
        ("kserve_grpc", "forest", "named"),
        ("kserve_rest", "digits", "named"),
        ("kserve_rest", "forest", "all"),
    ],
    "kserve": [
        *(("triton_grpc", "digits", way) for way in ("named", "all")),
        *(("triton_http", "digits", way) for way in ("named", "all", "named-binary", "all-binary")),
        *(("kserve_grpc", "digits", way) for way in ("named", "typed", "all")),
        *(("kserve_rest", "digits", way) for way in ("named", "all", "named-binary", "all-binary")),
    ],
}
CASES = [(server, *way) for server, ways in WAYS.items() for way in ways]


def where(place: Place, name: str) -> str:
    return place.grpc if name.endswith(("grpc", "stream")) else place.rest


@pytest.mark.parametrize(("server", "name", "model", "way"), CASES, ids=["-".join(c) for c in CASES])
def test_a_client_program_prints_the_same(pair, digits, server, name, model, way):
    direct, demur = pair(server)
    before = demur.judged()
    places = (where(direct, name), where(demur.place, name))
    said, through = both(name, places, model, str(digits.images), way)
    assert through == said
    assert "error" not in said
    assert said.count('"predict"') >= 3
    after = demur.judged()
    rows = {key: after.get(key, 0) - before.get(key, 0) for key in after}
    accepted, abstained = rows.get(f"{model} accept", 0), rows.get(f"{model} abstain", 0)
    assert accepted + abstained == ROWS
    assert accepted >= 4
    assert abstained >= 1 or model == "forest"
