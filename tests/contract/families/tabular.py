from tests.contract.entries import Case, permuted, spiked

# Two counts of two levels each, and a logarithm a side; `copod` shares them.
TAIL_NODES = 50
CASES = {
    "lof": Case("lof", {"k": 10}),
    "ecod": Case("ecod", far=spiked, most_nodes=TAIL_NODES),
    "copod": Case("copod", {"bank": 50}, far=spiked, most_nodes=TAIL_NODES),
    "hbos": Case("hbos", far=permuted),
    "pca": Case("pca", far=permuted),
    "pca_reconstruction": Case("pca", {"by": "reconstruction"}, far=permuted),
    "magnitude": Case("magnitude", far=permuted),
}
