from tests.contract.entries import Case

RATIO = {"score": {"energy": {"temperature": 2.0}}, "slope": 0.5, "intercept": 4.0}
CASES = {
    "scod_costs": Case("scod", RATIO | {"c_in": 0.3, "c_out": 0.4}),
    "scod_price": Case("scod", RATIO | {"c_fn": 0.6, "inlier_share": 0.9}),
    "scod_wild": Case("scod", RATIO | {"c_in": 0.2, "c_out": 0.3, "wild_inlier_share": 0.5}),
}
