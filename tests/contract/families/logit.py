from tests.contract.entries import Case

CASES = {
    "msp": Case("msp"),
    "max_logit": Case("max_logit"),
    "energy": Case("energy"),
    "energy_warm": Case("energy", {"temperature": 3.0}),
    "entropy": Case("entropy"),
}
