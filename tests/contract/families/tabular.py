from tests.contract.entries import Case, permuted, spiked

# Two counts of two levels each, and a logarithm a side; `copod` shares them.
TAIL_NODES = 50
# Seven nodes a level of the trees, eight levels with 256 rows: a walk touches 800 cuts of a row, the matrix form all 25,500.
FOREST_NODES = 70
CASES = {
    "lof": Case("lof", {"k": 10}),
    "isolation_forest": Case("isolation_forest", far=spiked, most_nodes=FOREST_NODES),
    "isolation_forest_small": Case("isolation_forest", {"trees": 7, "rows": 20}, far=spiked, most_nodes=FOREST_NODES),
    "ecod": Case("ecod", far=spiked, most_nodes=TAIL_NODES),
    "copod": Case("copod", {"bank": 50}, far=spiked, most_nodes=TAIL_NODES),
    "hbos": Case("hbos", far=permuted),
    "pca": Case("pca", far=permuted),
    "pca_reconstruction": Case("pca", {"by": "reconstruction"}, far=permuted),
    "magnitude": Case("magnitude", far=permuted),
}
