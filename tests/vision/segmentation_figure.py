"""The picture of docs/segmentation.md: `python -m tests.vision.segmentation_figure docs/images/segmentation.png`."""

from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image

from tests.vision.street import model, scene
from tests.vision.test_segmentation_street import segmenter

SCALE, GAP = 4, 8


def main(path: str) -> None:
    rng = np.random.default_rng(8)
    rows = []
    for unknown in (0, 2):
        made = scene(rng, unknown)
        seen = segmenter("standardised_max_logit")(model().dense(made.image))
        picture = Image.open(io.BytesIO(seen.png()))
        shown = [Image.fromarray((255 * made.image).astype(np.uint8)), picture]
        rows.append([np.array(i.resize((SCALE * i.width, SCALE * i.height), Image.Resampling.NEAREST)) for i in shown])
    across = np.full((rows[0][0].shape[0], GAP, 3), 255, np.uint8)
    both = [np.hstack([left, across, right]) for left, right in rows]
    down = np.full((GAP, both[0].shape[1], 3), 255, np.uint8)
    Image.fromarray(np.vstack([both[0], down, both[1]])).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
