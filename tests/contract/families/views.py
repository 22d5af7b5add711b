from tests.contract.entries import VIEWS, Case

CASES = {
    "cover": Case("cover", {"views": VIEWS}),
    "cover_energy": Case("cover", {"views": VIEWS, "by": "energy", "temperature": 2.0}),
    "predictive_entropy": Case("predictive_entropy", {"views": VIEWS}),
    "bald": Case("bald", {"views": VIEWS}),
    "variation_ratio": Case("variation_ratio", {"views": VIEWS}),
    "disagreement": Case("disagreement", {"views": VIEWS}),
    "disagreement_variance": Case("disagreement", {"views": VIEWS, "by": "variance"}),
    "rotation": Case("rotation"),
}
