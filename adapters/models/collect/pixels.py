"""From image files, or arrays of pixels, to what a vision model takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from demur.adapters.models.collect.tensor_spec import TensorSpec
from demur.monitor.errors import ConfigurationError, InvalidObservation

CHANNELS = (1, 3)
PADDING = (114, 114, 114)
Layout = Literal["nchw", "nhwc"]
Fitting = Literal["stretch", "crop", "pad"]
Colour = Literal["rgb", "bgr", "grey"]


@dataclass(frozen=True, slots=True)
class Pixels:
    """How pixels become an input: (pixel / scale - mean) / std, in float32; inputs of uint8 get the pixels as they are.

    `size` (height, width), `colour`, `layout`: None takes them from the model's input. `scale` None divides the pixels
    of image files by 255. `fitting`: `stretch` to the size, `crop` the middle after resizing the shorter side, or `pad`
    with grey (114), the picture centred.
    """

    size: tuple[int, int] | None = None
    fitting: Fitting = "stretch"
    colour: Colour | None = None
    layout: Layout | None = None
    scale: float | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Raises: ConfigurationError for numbers that no pixel can be divided by."""
        if not all(0 < number < math.inf for number in (*self.std, 1.0 if self.scale is None else self.scale)):
            raise ConfigurationError(f"expected numbers above 0, got --scale {self.scale}, --std {tuple(self.std)}")
        if not all(map(math.isfinite, self.mean)):
            raise ConfigurationError(f"expected finite numbers, got --mean {tuple(self.mean)}")

    @property
    def of_files(self) -> bool:
        """Whether an option is set that only image files can follow."""
        return self.size is not None or self.fitting != "stretch" or self.colour is not None

    @property
    def of_numbers(self) -> bool:
        """Whether the numbers of pixels are to be changed."""
        return self.scale is not None or len(self.mean) > 0 or len(self.std) > 0


@dataclass(frozen=True, slots=True)
class Plane:
    """The form of one image: height, width, channels (None: no axis for them), where the channels stand."""

    height: int
    width: int
    channels: int | None
    layout: Layout


def plane(pixels: Pixels, wanted: TensorSpec) -> Plane:
    """What the input asks for, completed by the options.

    Raises: ConfigurationError when size or layout stay unknown, or options and model disagree.
    """
    dims = () if wanted.shape is None else wanted.shape[1:]
    if wanted.shape is not None and len(dims) not in (1, 2, 3):
        raise ConfigurationError(f"input {wanted}: expected images (N, C, H, W), (N, H, W, C), (N, H, W) or (N, H*W)")
    layout = _layout(pixels, dims, wanted)
    channels, height, width = _parts(dims, layout)
    if len(dims) == 1 and pixels.size is None:
        raise ConfigurationError(f"input {wanted} is flat: say the size of an image with --size HxW")
    height, width = (
        _agreed(name, told, given, wanted)
        for name, told, given in zip(("height", "width"), (height, width), pixels.size or (None, None), strict=True)
    )
    grey = pixels.colour == "grey" or (pixels.colour is None and (len(dims) in (1, 2) or channels == 1))
    number = 1 if grey else 3
    if channels not in (None, number):
        raise ConfigurationError(f"input {wanted}: expected {channels} channels, --colour {pixels.colour} has {number}")
    return Plane(height, width, None if len(dims) in (1, 2) and grey else number, layout)


def _layout(pixels: Pixels, dims: Sequence[int | None], wanted: TensorSpec) -> Layout:
    first, last = (dims[0] in CHANNELS, dims[-1] in CHANNELS) if len(dims) == 3 else (False, False)
    if pixels.layout is not None:
        return pixels.layout
    if len(dims) == 3 and first == last:
        raise ConfigurationError(f"input {wanted}: cannot tell where the channels are; say --layout nchw or nhwc")
    return "nhwc" if last else "nchw"


def _parts(dims: Sequence[int | None], layout: Layout) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width as far as the model says."""
    if len(dims) == 3:
        return (dims[0], dims[1], dims[2]) if layout == "nchw" else (dims[2], dims[0], dims[1])
    return (None, dims[0], dims[1]) if len(dims) == 2 else (None, None, None)


def _agreed(name: str, told: int | None, given: int | None, wanted: TensorSpec) -> int:
    if told is None and given is None:
        raise ConfigurationError(f"input {wanted} takes images of any size: say one with --size HxW")
    if told is not None and given is not None and told != given:
        raise ConfigurationError(f"input {wanted}: expected {name} {told}, --size says {given}")
    found = told if given is None else given
    return int(found or 0)


def picture(image: Image.Image, pixels: Pixels, form: Plane) -> NDArray[np.uint8]:
    """(H, W) or (H, W, C) uint8 of the wanted size and colours.

    Raises: InvalidObservation for pixels of more than 8 bits, which Pillow would clip at 255.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        raise InvalidObservation(
            f"expected 8 bits a channel, got mode {image.mode}; convert the images, or give them as arrays"
        )
    mode = "L" if form.channels in (None, 1) else "RGB"
    image = image.convert(mode)
    size, resampling = (form.width, form.height), Image.Resampling.BILINEAR
    if image.size != size:
        if pixels.fitting == "crop":
            image = ImageOps.fit(image, size, resampling)
        elif pixels.fitting == "pad":
            image = ImageOps.pad(image, size, resampling, color=PADDING if mode == "RGB" else PADDING[0])
        else:
            image = image.resize(size, resampling)
    found = np.asarray(image, np.uint8)
    if form.channels is not None and found.ndim == 2:
        found = found[:, :, None]
    return found[:, :, ::-1] if pixels.colour == "bgr" and found.ndim == 3 else found


def prepared(images: NDArray[np.uint8], pixels: Pixels, form: Plane, wanted: TensorSpec) -> NDArray[Any]:
    """Pictures (N, H, W) or (N, H, W, C) as the input takes them."""
    found: NDArray[Any] = images
    if wanted.datatype != "UINT8":
        found = standardised(images, pixels, axis=-1 if images.ndim == 4 else None, scale=pixels.scale or 255.0)
    return np.moveaxis(found, -1, 1) if images.ndim == 4 and form.layout == "nchw" else found


def standardised(pixel: NDArray[Any], pixels: Pixels, *, axis: int | None, scale: float) -> NDArray[np.float32]:
    """(pixel / scale - mean) / std in float32; mean and std have one number, or one for each entry of `axis`.

    Raises: InvalidObservation when there are other numbers of them.
    """
    found = pixel.astype(np.float32) / np.float32(scale)
    for name, values in (("mean", pixels.mean), ("std", pixels.std)):
        if not len(values):
            continue
        size = 1 if axis is None else found.shape[axis]
        if len(values) not in (1, size):
            raise InvalidObservation(f"--{name}: expected 1 number or {size}, one for each channel, got {len(values)}")
        shape = [1] * found.ndim
        shape[0 if axis is None else axis] = len(values)
        factor = np.asarray(values, np.float32).reshape(shape)
        found = found - factor if name == "mean" else found / factor
    return found
