from tests.contract.entries import Case, healthy, spiked

CASES = {
    "rba": Case("rba"),
    "standardised_max_logit": Case("standardised_max_logit"),
    "given": Case("given", {"signal": "activations"}, ordinary=healthy, far=spiked),
}
