"""Judge a monitor: by OOD, by the model's mistakes, by what was promised. `evaluate` is the way in."""

from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.evaluation import Evaluation
from demur.monitor.evaluate.open_set import Costs
from demur.monitor.evaluate.run import evaluate

__all__ = ["Costs", "Evaluation", "EvaluationError", "evaluate"]
