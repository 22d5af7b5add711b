"""The tour's classifier in MLServer: outputs predict, logits and features, those that a request names or all."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class Digits(MLModel):  # type: ignore[misc]  # MLServer is not here when types are checked
    """A two-layer perceptron from an npz with w1, b1, w2, b2."""

    async def load(self) -> bool:
        with np.load(await get_model_uri(self._settings)) as weights:
            self._weights = {name: weights[name] for name in ("w1", "b1", "w2", "b2")}
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        w = self._weights
        features = np.maximum(NumpyCodec.decode_input(payload.inputs[0]) @ w["w1"] + w["b1"], np.float32(0))
        logits = features @ w["w2"] + w["b2"]
        found = {"predict": logits.argmax(axis=1), "logits": logits, "features": features}
        names = [output.name for output in payload.outputs or ()] or list(found)
        outputs = [NumpyCodec.encode_output(name, found[name]) for name in names]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
