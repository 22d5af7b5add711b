"""An MLServer runtime around the perceptron. Unary and streaming; it names an output that it does not have, as MLServer's own do."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse
from mlserver.utils import get_model_uri
from perceptron import Perceptron


class Digits(MLModel):
    """Outputs predict, logits, features."""

    async def load(self):
        self._model = Perceptron(await get_model_uri(self._settings))
        return True

    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0])
        try:
            found = self._model.named(images, [output.name for output in payload.outputs or ()])
        except ValueError as error:
            raise InferenceError(str(error)) from error
        outputs = [NumpyCodec.encode_output(name, values) for name, values in found.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    async def predict_stream(self, payloads):
        async for payload in payloads:
            yield await self.predict(payload)
