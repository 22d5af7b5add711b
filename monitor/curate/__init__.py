"""Data quality: what is doubtful in a reference set, an auxiliary set or unlabelled traffic. Reports; removes nothing."""

from demur.monitor.curate.anomaly_posterior import expected_anomaly_posterior
from demur.monitor.curate.checked import CurationError
from demur.monitor.curate.contamination import Contamination, contamination, detector_scores
from demur.monitor.curate.label_noise import LabelNoise, label_noise
from demur.monitor.curate.outlier_choice import choose_outliers
from demur.monitor.curate.ranking import RankedColumn, rank_columns
from demur.monitor.curate.veracity import Veracity, veracity

__all__ = [
    "Contamination",
    "CurationError",
    "LabelNoise",
    "RankedColumn",
    "Veracity",
    "choose_outliers",
    "contamination",
    "detector_scores",
    "expected_anomaly_posterior",
    "label_noise",
    "rank_columns",
    "veracity",
]
