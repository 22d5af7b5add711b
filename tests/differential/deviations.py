"""Where our scores agree with other people's, and where they differ on purpose. docs/differential.md is written from this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Our score with these hyper-parameters is this function of theirs, to 1e-4 relative."""

    score: str
    peer: str
    relation: str = "equal"


@dataclass(frozen=True)
class Deviation:
    """What differs, and why ours is as it is; `test` shows that nothing else does."""

    score: str
    peer: str
    differs: str
    why: str
    test: str


PYTORCH_OOD = {
    "max_logit": Agreement("max_logit", "MaxLogit"),
    "msp": Agreement("msp", "MaxSoftmax", "1 + theirs"),
    "msp_temperature": Agreement("msp (temperature 4)", "MaxSoftmax (t = 4)", "1 + theirs"),
    "energy": Agreement("energy (temperature 2)", "EnergyBased (t = 2)"),
    "entropy": Agreement("entropy", "Entropy", "equal while every probability is above 1e-7"),
    "gen": Agreement("gen (top 5)", "GEN (M = 5)", "5 x theirs, while every probability is above 1e-7"),
    "odin": Agreement("odin (temperature 10)", "ODIN (eps = 0, temperature = 10)", "1/C + theirs"),
    "kl_matching": Agreement("kl_matching", "KLMatching"),
    "weighted_energy": Agreement("weighted_energy (weights given)", "WeightedEBO"),
    "open_max": Agreement(
        "open_max (tail 25, alpha 10) with their laws", "OpenMax", "equal when every class is predicted in the batch"
    ),
    "msp_mcm": Agreement("msp on cosine similarities", "MCM", "1 + theirs"),
    "mahalanobis": Agreement("mahalanobis (shrinkage 0)", "Mahalanobis", "2 n x theirs"),
    "relative_mahalanobis": Agreement("relative_mahalanobis (shrinkage 0)", "RMD", "n x theirs"),
    "class_gmm": Agreement("class_gmm (shrinkage 0)", "GMM", "equal when the classes have one covariance"),
    "she": Agreement("she", "SHE"),
    "nci": Agreement("nci (alpha 0.001)", "NCI (alpha = 0.001)"),
    "fdbd": Agreement("fdbd", "fDBD"),
    "grad_norm": Agreement("grad_norm", "GradNorm (the weight alone)"),
    "grad_norm_bias": Agreement("grad_norm (bias true)", "GradNorm"),
    "knn": Agreement("knn (k 10)", "KNN (k = 10)", "theirs² / 2"),
    "knn_euclidean": Agreement("knn (k 10, metric euclidean)", "KNN (k = 10, normalize = False)"),
    "nnguide": Agreement("nnguide", "NNGuide"),
    "vim": Agreement("vim (dim 20)", "ViM (d = 20)"),
    "react_energy": Agreement("react_energy", "ReAct", "equal when the quantile falls on a number"),
    "dice": Agreement("dice, energy", "DICE (p = 0.9)", "equal when the quantile falls on a number"),
    "ash_p": Agreement("ash_p (percentile 65), energy", "ASH (ash-p)"),
    "ash_b": Agreement("ash_b (percentile 65), energy", "ASH (ash-b)"),
    "ash_s": Agreement("ash_s (percentile 65), energy", "ASH (ash-s)"),
    "scale": Agreement("scale (percentile 65), energy", "SCALE"),
    "lts": Agreement("lts, energy", "LTS"),
    "vra_openood_clip": Agreement("vra_openood_clip with their thresholds, energy", "VRA"),
}

PYOD = {
    "knn": Agreement("knn (k 5, metric euclidean)", "KNN"),
    "knn_mean": Agreement("knn (k 5, metric euclidean, aggregate mean)", "KNN (mean)"),
    "lof": Agreement("lof", "LOF"),
    "isolation_forest": Agreement("isolation_forest", "IForest", "theirs + a constant"),
    "copod": Agreement("copod", "COPOD", "equal for one row at a time"),
    "ecod": Agreement("ecod of single columns, summed", "ECOD", "equal for one row at a time"),
    "hbos": Agreement("hbos", "HBOS", "equal on columns scaled to [0, 1], for rows inside them"),
    "stability": Agreement("exceed_confidence", "predict_confidence"),
    "rejection": Agreement("stable_at_contamination", "predict_with_rejection (T = 8)", "the same rows are refused"),
}

SCIKIT_LEARN = {
    "ledoit_wolf": Agreement("shrinkage ledoit_wolf", "LedoitWolf"),
    "oas": Agreement("shrinkage oas", "OAS"),
    "empirical": Agreement("mahalanobis (shrinkage 0), one class", "EmpiricalCovariance.mahalanobis"),
    "shrunk": Agreement("mahalanobis, one class", "LedoitWolf.mahalanobis"),
    "lof": Agreement("lof", "LocalOutlierFactor.score_samples", "minus theirs"),
    "isolation_forest": Agreement("isolation_forest", "IsolationForest.score_samples", "minus theirs"),
    "gmm": Agreement("gmm (full)", "GaussianMixture.score_samples", "minus theirs"),
    "gmm_tied": Agreement("gmm (tied)", "GaussianMixture.score_samples (tied)", "minus theirs"),
    "pca": Agreement("pca (by reconstruction, dim 10)", "PCA.inverse_transform", "the distance to it"),
}

DEVIATIONS = {
    "entropy_clip": Deviation(
        "entropy",
        "pytorch-ood Entropy",
        "clips probabilities at 1e-7, so each class below it adds 1.6e-6 nats",
        "the limit of p log p is 0; ours works on log-probabilities and clips nothing",
        "test_entropy_differs_by_what_is_clipped",
    ),
    "gen_clamp": Deviation(
        "gen",
        "pytorch-ood GEN",
        "a mean; clamps probabilities to [1e-7, 1 - 1e-7], where p^0.1 still is 0.2",
        "the sum is the paper's; clamped, confident rows tie",
        "test_gen_differs_by_the_clamp_alone",
    ),
    "weighted_energy_overflow": Deviation(
        "weighted_energy",
        "pytorch-ood WeightedEBO",
        "-inf when a logit is above 88",
        "the largest logit is taken out of the exponentials first",
        "test_weighted_energy_overflows_there_and_not_here",
    ),
    "open_max_batch": Deviation(
        "open_max",
        "pytorch-ood OpenMax",
        "distances to classes that nobody in the batch is predicted as count as 0",
        "a row's score must not depend on the rows it is sent with",
        "test_open_max_of_theirs_depends_on_the_batch",
    ),
    "open_max_rows": Deviation(
        "open_max",
        "pytorch-ood OpenMax",
        "class means and tails of all rows, tail 25, alpha 10",
        "the paper's: rows answered correctly, tail 20, alpha 3",
        "open_max",
    ),
    "open_max_fit": Deviation(
        "open_max",
        "pytorch-ood OpenMax",
        "a simplex search for the Weibull law stops short; moves scores by up to 0.2 %",
        "the likelihood equation is solved exactly",
        "test_open_max_fits_the_likeliest_law_and_theirs_stops_before",
    ),
    "temperature": Deviation(
        "msp (temperature fit)",
        "pytorch-ood TemperatureScaling",
        "LBFGS with a step of 0.01, stopped after 50 iterations: the temperature may be far from the minimum",
        "a bounded search over log T ends at the minimum; at one temperature both are the same",
        "test_the_fitted_temperature_is_the_minimum_and_theirs_is_not",
    ),
    "mahalanobis_float32": Deviation(
        "mahalanobis",
        "pytorch-ood Mahalanobis, RMD",
        "inverts scatter + 1e-6 I in float32: with fewer rows than features it depends on their scale, and squared "
        "distances may be negative",
        "float64, shrinkage by Ledoit and Wolf, distances as sums of squares",
        "test_mahalanobis_of_theirs_turns_negative_with_fewer_rows_than_features",
    ),
    "gmm_covariance": Deviation(
        "class_gmm",
        "pytorch-ood GMM",
        "one covariance a class, ridge 1e-6, refused when a class has too few rows",
        "one shrunk covariance for all classes; `mahalanobis` with covariance class has one each",
        "test_gmm_of_theirs_needs_more_rows_a_class_than_features",
    ),
    "pnml": Deviation(
        "pnml",
        "pytorch-ood PNML",
        "no constant among the features, nothing for the part outside the reference's span",
        "the authors' own code: [1, unit feature], and the larger of a / (1 + a) and the part outside",
        "test_pnml_differs_by_the_constant_and_the_outside_alone",
    ),
    "quantiles": Deviation(
        "react, dice, vra_openood_clip",
        "pytorch-ood ReAct, DICE, VRA",
        "quantiles interpolated between two numbers",
        "order statistics, which merge exactly over parts of the data; at most one number further",
        "test_react_quantiles_differ_by_one_number_at_most",
    ),
    "vra": Deviation(
        "vra",
        "pytorch-ood VRA",
        "raises small activations to the lower threshold; thresholds for every element",
        "the paper sets them to 0 and has two thresholds; theirs is here as vra_openood_clip",
        "test_vra_raises_there_what_the_paper_sets_to_0",
    ),
    "ash_zeros": Deviation(
        "ash_b",
        "pytorch-ood ASH (ash-b)",
        "with fewer than k positive activations, lifts arbitrary zeros",
        "only positive activations are kept, so ties do not decide",
        "test_ash_b_of_theirs_lifts_zeros",
    ),
    "nac": Deviation(
        "nac",
        "pytorch-ood NACUE",
        "bins spaced evenly in the logarithm from 1e-6; layers summed",
        "the authors' bins; layers averaged",
        "test_nac_differs_by_the_bins_alone",
    ),
    "ecod_sum": Deviation(
        "ecod",
        "PyOD ECOD",
        "sums over columns the largest tail",
        "the paper's largest of three sums over columns",
        "test_ecod_is_the_largest_of_three_sums_and_theirs_a_sum_of_largest",
    ),
    "tails_batch": Deviation(
        "ecod, copod",
        "PyOD ECOD, COPOD",
        "ranks reference and batch together",
        "a row's score must not depend on the rows it is sent with",
        "test_tails_of_theirs_depend_on_the_batch",
    ),
    "hbos_units": Deviation(
        "hbos",
        "PyOD HBOS",
        "heights depend on the columns' units; far rows count as the emptiest bin",
        "columns scaled to [0, 1]; far rows count as an empty bin",
        "test_hbos_of_theirs_follows_the_unit_and_ours_does_not",
    ),
    "pca_sign": Deviation(
        "pca",
        "PyOD PCA",
        "the distance from a row to each eigenvector as if it were a point, which changes with its sign",
        "Mahalanobis form or reconstruction error, which do not",
        "test_pca_of_theirs_changes_with_the_sign_of_an_eigenvector",
    ),
    "rejection_all": Deviation(
        "stable_at_contamination",
        "PyOD predict_with_rejection",
        "1 - 2e^-T is 1 from T = 38 on: every row is refused",
        "tails are computed on their own side",
        "test_everything_is_rejected_there_from_38_on_and_not_here",
    ),
    "contamination_count": Deviation(
        "stable_at_contamination",
        "PyOD predict_confidence",
        "int(0.29 * 100) is 28 expected anomalies",
        "0.29 is taken as the decimal it is written as: 29",
        "test_a_share_of_rows_is_the_decimal_it_is_written_as",
    ),
}


def rows() -> Iterator[tuple[str, ...]]:
    """Of the table of agreements."""
    for library, agreed in (("pytorch-ood", PYTORCH_OOD), ("PyOD", PYOD), ("scikit-learn", SCIKIT_LEARN)):
        yield from ((a.score, library, a.peer, a.relation) for a in agreed.values())


def reasons() -> Iterator[tuple[str, ...]]:
    """Of the table of deviations."""
    yield from ((d.score, d.peer, d.differs, d.why) for d in DEVIATIONS.values())
