"""What proves each kind of promise, by its way, in the words that are printed."""

from __future__ import annotations

_TOLERANCE = "the exact binomial tolerance limit (Wilks 1941)"
_RISING = ", for an error rate that does not fall as more is accepted"
THEOREMS: dict[tuple[str, str], str] = {
    (
        "marginal",
        "split",
    ): "split conformal p-values (Vovk, Gammerman & Shafer 2005), bounded for this bundle by Wilks 1941",
    ("marginal", "early_stopping"): "conformalised early stopping (Liang, Zhou & Sesia 2023)",
    ("tolerance", "split"): _TOLERANCE,
    ("tolerance", "neyman_pearson"): "the Neyman-Pearson umbrella rule (Tong, Feng & Li 2018)",
    ("tolerance", "simes"): "calibration-conditional p-values, Simes bound (Bates et al. 2023)",
    ("tolerance", "asymptotic"): "calibration-conditional p-values, asymptotic bound (Bates et al. 2023)",
    (
        "selective",
        "sgr",
    ): f"selection with guaranteed risk (Geifman & El-Yaniv 2017) with Clopper-Pearson bounds{_RISING}",
    (
        "selective",
        "fixed_sequence",
    ): f"fixed-sequence testing with exact binomial p-values (Angelopoulos et al. 2021){_RISING}",
    (
        "selective",
        "learn_then_test",
    ): "Learn-then-Test with Holm's correction and exact binomial p-values (Angelopoulos et al. 2021)",
    ("joint", "conformal"): "conformal risk control (Angelopoulos et al. 2024)",
    ("joint", "binomial"): "risk-controlling prediction sets (Bates et al. 2021) with the exact Clopper-Pearson bound",
    (
        "joint",
        "betting",
    ): "risk-controlling prediction sets (Bates et al. 2021) with the betting bound (Waudby-Smith & Ramdas 2024)",
    ("stable", "rejex"): "RejEx in the log domain (Perini & Davis 2023)",
}
