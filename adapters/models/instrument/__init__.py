"""Make a model show what a monitor needs: features before its head, logits before its softmax, the head itself."""

from demur.adapters.models.instrument.candidates import candidates
from demur.adapters.models.instrument.instrumented import Found, Instrumented
from demur.adapters.models.instrument.run import instrument

__all__ = ["Found", "Instrumented", "candidates", "instrument"]
