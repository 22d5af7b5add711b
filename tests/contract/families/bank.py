from tests.contract.entries import Case

CASES = {
    "knn": Case("knn", {"k": 5, "bank": 300}),
    "knn_nearest": Case("knn", {"k": 1}),
}
