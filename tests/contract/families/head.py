from tests.contract.entries import Case

CASES = {
    "fdbd": Case("fdbd"),
    "nci": Case("nci"),
    "nci_pointing": Case("nci", {"alpha": 0}),
    "grad_norm": Case("grad_norm"),
    "grad_norm_bias": Case("grad_norm", {"bias": True}),
}
