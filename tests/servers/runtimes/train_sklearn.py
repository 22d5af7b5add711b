"""A scikit-learn classifier as MLServer's own runtime loads it: `python train_sklearn.py FOLDER`.

Reads FOLDER/images.npz (`train`, `labels` and other sets of images), writes FOLDER/model.joblib and FOLDER/answers.npz with
`predict_proba` of every set.
"""

import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression

folder = Path(sys.argv[1])
with np.load(folder / "images.npz") as data:
    sets = dict(data)
model = LogisticRegression(max_iter=300).fit(sets["train"], sets.pop("labels"))
joblib.dump(model, folder / "model.joblib")
np.savez(folder / "answers.npz", **{name: model.predict_proba(images) for name, images in sets.items()})
