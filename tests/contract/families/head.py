from tests.contract.entries import Case

CASES = {
    "fdbd": Case("fdbd"),
    "nci": Case("nci"),
    "nci_pointing": Case("nci", {"alpha": 0}),
    "grad_norm": Case("grad_norm"),
    "grad_norm_bias": Case("grad_norm", {"bias": True}),
    "she": Case("she"),
    "she_cosine": Case("she", {"metric": "cosine"}),
    "she_euclidean": Case("she", {"metric": "euclidean"}),
    "pnml": Case("pnml", most_nodes=60),
    "box": Case("box", {"boxes": 3, "margin": 0.1}),
    "nac": Case("nac", {"edges": 20, "sharpness": 1.0}),
    "nac_layers": Case("nac_layers", {"layers": ["features"], "edges": 20, "sharpness": [1.0]}),
}
