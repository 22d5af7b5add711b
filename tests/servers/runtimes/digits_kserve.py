"""The perceptron in KServe's Python ModelServer: `python digits_kserve.py weights.npz --http_port=.. --grpc_port=..`."""

import sys

from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.utils.numpy_codec import from_np_dtype
from perceptron import Perceptron


class Digits(Model):
    """Outputs predict, logits, features."""

    def __init__(self, name, weights):
        super().__init__(name)
        self._model = Perceptron(weights)
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        try:
            found = self._model.named(payload.inputs[0].as_numpy(), [o.name for o in payload.request_outputs or ()])
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        outputs = []
        for name, values in found.items():
            output = InferOutput(name, list(values.shape), from_np_dtype(values.dtype))
            output.set_data_from_numpy(values, binary_data=True)
            outputs.append(output)
        return InferResponse(
            payload.id or "none",
            self.name,
            outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    weights = sys.argv.pop(1)
    ModelServer().start([Digits("digits", weights), Digits("plain", weights)])
