"""`python -m tests.vision.figure OUT.png`: boxes of the tiny detector, accepted in green, refused in red; and its inventions."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import demur
from demur.adapters.models.adapters_of import output_adapter
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.evaluate.hallucination import hallucinations
from demur.monitor.session import Session
from tests.vision import tiny_monitor
from tests.vision.scenes import SIDE, known, unknown

SCALE, GAP = 3, 6
COLOURS = {True: "#16c172", False: "#ff3b30"}
SIZES = {"reference": 1500, "calibration": 800, "test": 400, "unknown": 400}


def draw(path: Path) -> None:
    """Four images with known objects above four with unknown ones."""
    made = tiny_monitor.world(Path(__file__).with_name("tiny_detector.onnx"), Path(tempfile.mkdtemp()), SIZES)
    found = hallucinations(made["bundle"], made["tables"]["test"], made["tables"]["unknown"], bootstrap=500)
    print(found.before, *found.filters, sep="\n")
    pixels = np.concatenate([known("test", 4, 611).pixels, unknown("test", 4, 616).pixels])
    detect = output_adapter(parse(SignalMapConfig, made["map"], "map"))
    seen = detect(Session(made["model"].read_bytes(), whole=True).run({"images": pixels}))
    accept = demur.Monitor.of(made["bundle"]).assess(**seen.arguments()).accept
    side = SIDE * SCALE
    sheet = Image.new("RGB", (4 * side + 3 * GAP, 2 * side + GAP), "white")
    for number, image in enumerate(pixels):
        tile = Image.fromarray((image.transpose(1, 2, 0) * 255).astype(np.uint8)).resize((side, side), Image.BILINEAR)
        pen = ImageDraw.Draw(tile)
        for row in np.flatnonzero(seen.image == number):
            colour, box = COLOURS[bool(accept[row])], seen.boxes[row] * SCALE
            pen.rectangle(box.tolist(), outline=colour, width=3)
            pen.rectangle([box[0], box[1] - 14, box[0] + 14, box[1]], fill=colour)
            pen.text((box[0] + 4, box[1] - 13), str(seen.labels[row]), fill="black")
        sheet.paste(tile, (number % 4 * (side + GAP), number // 4 * (side + GAP)))
    sheet.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
