"""Every score, by the name configurations and telemetry use for it."""

from __future__ import annotations

from typing import Any

from demur.detectors.scores.auto_encoder import AutoEncoder
from demur.detectors.scores.balls import CFOOD
from demur.detectors.scores.boxes import Box
from demur.detectors.scores.cider import CIDER
from demur.detectors.scores.class_gmm import ClassGMM
from demur.detectors.scores.contrast import ContrastiveBanks
from demur.detectors.scores.coverage import NAC, LayersNAC
from demur.detectors.scores.failure import Failure
from demur.detectors.scores.flow import Flow
from demur.detectors.scores.forest import IsolationForest
from demur.detectors.scores.fusion import Flagged, Fused, TwoSided
from demur.detectors.scores.given import Given
from demur.detectors.scores.gmm import GMM
from demur.detectors.scores.guidance import NNGuide, Relation
from demur.detectors.scores.head import FDBD, NCI, GradNorm
from demur.detectors.scores.health import (
    ActivationKurtosis,
    AttentionSink,
    LLMInt8,
    MassiveActivation,
    OutlierDimensions,
    Saturation,
)
from demur.detectors.scores.histogram import HBOS
from demur.detectors.scores.knn import KNN
from demur.detectors.scores.logit import MSP, Energy, Entropy, MaxLogit, MaxSup
from demur.detectors.scores.magnitude import Magnitude
from demur.detectors.scores.mahalanobis import Mahalanobis, RelativeMahalanobis
from demur.detectors.scores.mean_shift import MeanShifted
from demur.detectors.scores.missingness import Missingness
from demur.detectors.scores.neighbours import LOF
from demur.detectors.scores.onnx_score import OnnxScore
from demur.detectors.scores.open_max import OpenMax
from demur.detectors.scores.outlier_head import OutlierHead
from demur.detectors.scores.photometric import Photometric
from demur.detectors.scores.pixel import RbA, StandardisedMaxLogit
from demur.detectors.scores.posterior import KLMatching, WeightedEnergy
from demur.detectors.scores.principal import PCA
from demur.detectors.scores.probability import GEN, ODIN, Doctor, Margin
from demur.detectors.scores.prototype import SHE
from demur.detectors.scores.reconstruction import Reconstruction
from demur.detectors.scores.regression import IntervalWidth, Veracity
from demur.detectors.scores.regret import PNML
from demur.detectors.scores.robust import DRPO, RobustMahalanobis, RobustPCA
from demur.detectors.scores.sal import SAL
from demur.detectors.scores.scod import SCOD
from demur.detectors.scores.self_similarity import SelfSimilarity
from demur.detectors.scores.shaped import ReActEnergy, Shaped
from demur.detectors.scores.sigmoid import ObjectnessGap, SigmoidEnergy
from demur.detectors.scores.sirc import SIRC
from demur.detectors.scores.stopping import EarlyStopped
from demur.detectors.scores.stream import EntropyInterval, MeanNLL
from demur.detectors.scores.subspace import CORE, Residual
from demur.detectors.scores.tails import COPOD, ECOD
from demur.detectors.scores.views import (
    BALD,
    Cover,
    Disagreement,
    PredictiveEntropy,
    Rotation,
    VariationRatio,
)
from demur.detectors.scores.vim import ViM

SCORES: dict[str, type[Any]] = {
    "msp": MSP,
    "max_logit": MaxLogit,
    "energy": Energy,
    "entropy": Entropy,
    "sigmoid_energy": SigmoidEnergy,
    "objectness_gap": ObjectnessGap,
    "standardised_max_logit": StandardisedMaxLogit,
    "rba": RbA,
    "max_sup": MaxSup,
    "margin": Margin,
    "gen": GEN,
    "doctor": Doctor,
    "odin": ODIN,
    "kl_matching": KLMatching,
    "weighted_energy": WeightedEnergy,
    "open_max": OpenMax,
    "sirc": SIRC,
    "mahalanobis": Mahalanobis,
    "relative_mahalanobis": RelativeMahalanobis,
    "robust_mahalanobis": RobustMahalanobis,
    "class_gmm": ClassGMM,
    "robust_pca": RobustPCA,
    "drpo": DRPO,
    "mean_shifted": MeanShifted,
    "knn": KNN,
    "nnguide": NNGuide,
    "relation": Relation,
    "cider": CIDER,
    "cfood": CFOOD,
    "contrastive_banks": ContrastiveBanks,
    "lof": LOF,
    "isolation_forest": IsolationForest,
    "ecod": ECOD,
    "copod": COPOD,
    "hbos": HBOS,
    "pca": PCA,
    "magnitude": Magnitude,
    "missingness": Missingness,
    "vim": ViM,
    "residual": Residual,
    "core": CORE,
    "fdbd": FDBD,
    "nci": NCI,
    "grad_norm": GradNorm,
    "she": SHE,
    "pnml": PNML,
    "box": Box,
    "nac": NAC,
    "nac_layers": LayersNAC,
    "react_energy": ReActEnergy,
    "shaped": Shaped,
    "gmm": GMM,
    "outlier_head": OutlierHead,
    "sal": SAL,
    "flow": Flow,
    "auto_encoder": AutoEncoder,
    "reconstruction": Reconstruction,
    "failure": Failure,
    "cover": Cover,
    "predictive_entropy": PredictiveEntropy,
    "bald": BALD,
    "variation_ratio": VariationRatio,
    "disagreement": Disagreement,
    "rotation": Rotation,
    "self_similarity": SelfSimilarity,
    "photometric": Photometric,
    "interval_width": IntervalWidth,
    "veracity": Veracity,
    "activation_kurtosis": ActivationKurtosis,
    "massive_activation": MassiveActivation,
    "outlier_dimensions": OutlierDimensions,
    "llm_int8": LLMInt8,
    "attention_sink": AttentionSink,
    "saturation": Saturation,
    "fused": Fused,
    "two_sided": TwoSided,
    "flagged": Flagged,
    "early_stopped": EarlyStopped,
    "scod": SCOD,
    "given": Given,
    "onnx_score": OnnxScore,
}

# They read p-values of the columns that `of` lists, and come after the members are calibrated; `early_stopped` reads scores.
FUSIONS = frozenset({"failure", "flagged", "fused", "two_sided"})
STREAM_SCORES: dict[str, type[Any]] = {"mean_nll": MeanNLL, "entropy_interval": EntropyInterval}
