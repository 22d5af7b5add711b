from tests.contract.entries import Case, near, with_logits

# Rows far out have large logits; strange to a head of sigmoids is a row that no class claims.


def nothing_known(count):
    return with_logits(0.02 * near(count)["features"])


def halves(count):
    """An object for sure, and a class at even odds."""
    signals = near(count)
    return {**signals, "logits": 0 * signals["logits"], "objectness": 0 * signals["objectness"] + 1}


CASES = {
    "sigmoid_energy": Case("sigmoid_energy", far=nothing_known),
    "objectness_gap": Case("objectness_gap", far=halves),
}
