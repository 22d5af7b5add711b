from tests.contract.entries import Case, permuted

CASES = {
    "knn": Case("knn", {"k": 5, "bank": 300}),
    "knn_nearest": Case("knn", {"k": 1}),
    "knn_euclidean": Case("knn", {"k": 5, "metric": "euclidean"}),
    "knn_mean": Case("knn", {"k": 5, "aggregate": "mean", "metric": "euclidean"}),
    "knn_mean_cosine": Case("knn", {"k": 5, "aggregate": "mean", "bank": 90, "select": "class_balanced"}),
    "knn_half": Case("knn", {"k": 5, "dtype": "float16", "bank": 60, "select": "k_centre"}),
    "knn_bytes": Case("knn", {"k": 5, "dtype": "int8", "bank": 60, "select": "distilled"}),
    "knn_bytes_mean": Case("knn", {"k": 5, "dtype": "int8", "aggregate": "mean", "metric": "euclidean"}),
    "cider": Case("cider", {"k": 5}),
    "nnguide": Case("nnguide"),
    "relation": Case("relation"),
    "relation_sharp": Case("relation", {"power": 4, "bank": 100}),
    "relation_soft": Case("relation", {"power": 2.5, "bank": 100}, most_nodes=40),  # a logarithm of M values
    "cfood": Case("cfood", most_nodes=45),  # distances, a count in two levels, and the order beyond the largest ball
    "contrastive_banks": Case("contrastive_banks", {"k": 5}, far=permuted, most_nodes=35),  # two banks
}
