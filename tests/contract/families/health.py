from tests.contract.entries import Case, healthy, spiked

CASES = {
    "activation_kurtosis": Case("activation_kurtosis", ordinary=healthy, far=spiked),
}
