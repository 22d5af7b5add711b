"""The digits perceptron in NumPy, as both servers run it: predict, logits, features."""

import numpy as np


class Perceptron:
    """Weights from an npz; the same float32 sums on every call."""

    def __init__(self, path):
        with np.load(path) as data:
            self.w1, self.b1, self.w2, self.b2 = (data[n].astype(np.float32) for n in ("w1", "b1", "w2", "b2"))

    def __call__(self, images):
        """By output name: predict (N,) int64, logits (N, 8) and features (N, 64) float32."""
        features = np.maximum(images.astype(np.float32) @ self.w1 + self.b1, np.float32(0))
        logits = features @ self.w2 + self.b2
        return {"predict": logits.argmax(axis=1), "logits": logits, "features": features}

    def named(self, images, names):
        """The outputs of these names in this order, all of them when none is named. Raises: ValueError."""
        if images.ndim != 2 or images.shape[1] != len(self.w1):
            raise ValueError(f"expected images of shape (N, {len(self.w1)}), got {images.shape}")
        found = self(images)
        unknown = [n for n in names if n not in found]
        if unknown:
            raise ValueError(f"this model has no output {', '.join(unknown)}")
        return {n: found[n] for n in names or found}
