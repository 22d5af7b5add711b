"""Perturbations with severities, to make stress sets: images, features, text, time-series windows."""

from demur.monitor.perturb.catalogue import CATALOGUE, find
from demur.monitor.perturb.context import Context
from demur.monitor.perturb.errors import PerturbationError
from demur.monitor.perturb.perturbation import SEVERITIES, Perturbation, Perturbed

__all__ = ["CATALOGUE", "SEVERITIES", "Context", "Perturbation", "PerturbationError", "Perturbed", "find"]
