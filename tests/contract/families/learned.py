from tests.contract.entries import Case, permuted

SMALL = {"hidden": 12, "iterations": 60}
CASES = {
    "outlier_head": Case("outlier_head", SMALL, far=permuted),
    "outlier_head_linear": Case("outlier_head", {"by": "mix_oe", "hidden": 0, "iterations": 60}, far=permuted),
    "outlier_head_energy": Case("outlier_head", {"by": "energy_margin", "dos": True, **SMALL}, far=permuted),
    "sal": Case("sal", far=permuted),
    "flow": Case("flow", {"layers": 2, "hidden": 16, "epochs": 30}, far=permuted, most_nodes=50),
    "auto_encoder": Case("auto_encoder", {"hidden": 16, "code": 5, "epochs": 150}, far=permuted),
    "auto_encoder_mse": Case("auto_encoder", {"by": "mse", "hidden": 16, "code": 5, "epochs": 150}, far=permuted),
    "auto_encoder_shifted": Case(
        "auto_encoder",
        {"mean_shift": 2, "k": 3, "bank": 200, "hidden": 16, "code": 5, "epochs": 150},
        far=permuted,
        most_nodes=40,
    ),
}
