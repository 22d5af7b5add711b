"""Tiny Keras exports with what Keras computed: run with tensorflow 2.21, keras 3.15 and tf2onnx 1.17 in a scratch environment.

python make_keras.py [FOLDER]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from keras import layers

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent


def models():
    """name, model with a layer named `head`, the input's shape."""
    yield (
        "keras_mlp",
        keras.Sequential([layers.Input((7,)), layers.Dense(9, "relu"), layers.Dense(5, "softmax", name="head")]),
        (7,),
    )
    cnn = [
        layers.Input((8, 8, 1)),
        layers.Conv2D(6, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(),
    ]
    yield (
        "keras_cnn",
        keras.Sequential([*cnn, layers.Dropout(0.2), layers.Dense(5, name="head"), layers.Softmax()]),
        (8, 8, 1),
    )


def main() -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    for name, model, shape in models():
        head = model.get_layer("head")
        head.bias.assign(rng.normal(size=5))
        spec = (tf.TensorSpec((None, *shape), tf.float32, name="input"),)
        proto, _ = tf2onnx.convert.from_function(
            tf.function(lambda x, m=model: m(x, training=False)), input_signature=spec, opset=15
        )
        (OUT / f"{name}.onnx").write_bytes(proto.SerializeToString())
        x = rng.normal(size=(4, *shape)).astype(np.float32)
        features = keras.Model(model.inputs, head.input)(x, training=False).numpy()
        weight, bias = head.get_weights()
        kept = {"features": features, "logits": features @ weight + bias, "weight": weight.T, "bias": bias}
        np.savez_compressed(OUT / f"{name}.npz", **kept, output=model(x, training=False).numpy(), **{"in.input": x})


if __name__ == "__main__":
    main()
