"""pytorch-ood's detectors on rows of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.differential.absent import without_torchvision
from tests.differential.rows import Rows


class Peers:
    """pytorch-ood over one set of rows: scores as float64 arrays."""

    def __init__(self, rows: Rows) -> None:
        without_torchvision()
        import torch
        from pytorch_ood import detector

        self.torch, self.detectors, self.rows = torch, detector, rows
        self.features, self.test = torch.tensor(rows.features), torch.tensor(rows.test)
        self.labels = torch.tensor(rows.labels)
        self.logits, self.test_logits = torch.tensor(rows.logits(rows.features)), torch.tensor(rows.logits(rows.test))

    @property
    def head(self) -> Any:
        """The last layer as a module."""
        classes, width = self.rows.weight.shape
        linear = self.torch.nn.Linear(width, classes)
        with self.torch.no_grad():
            linear.weight.copy_(self.torch.tensor(self.rows.weight))
            linear.bias.copy_(self.torch.tensor(self.rows.bias))
        return linear

    @property
    def map_head(self) -> Callable[[Any], Any]:
        """The same on maps of one pixel."""
        head = self.head
        return lambda maps: head(maps.flatten(1))

    @property
    def weights(self) -> tuple[Any, Any]:
        return self.torch.tensor(self.rows.weight), self.torch.tensor(self.rows.bias)

    def of_logits(self, name: str, *args: Any, fit: bool = False, **named: Any) -> NDArray[np.float64]:
        found = getattr(self.detectors, name)(None, *args, **named)
        if fit:
            found.fit_logits(self.logits, self.labels)
        return _array(found.predict_logits(self.test_logits))

    def of_features(self, name: str, *args: Any, fit: bool = True, **named: Any) -> NDArray[np.float64]:
        found = getattr(self.detectors, name)(None, *args, **named)
        if fit:
            found.fit_features(self.features, self.labels)
        return _array(found.predict_features(self.test))

    def of_maps(self, name: str, *, fit: bool = False, **named: Any) -> NDArray[np.float64]:
        found = getattr(self.detectors, name)(None, self.map_head, **named)
        if fit:
            found.fit_feature_maps(self.features[:, :, None, None], self.labels)
        return _array(found.predict_feature_maps(self.test[:, :, None, None]))


def _array(scores: Any) -> NDArray[np.float64]:
    return np.asarray(scores.detach().numpy(), np.float64)


@functools.cache
def rows() -> Rows:
    return Rows.made(3)


@functools.cache
def soft() -> Rows:
    """A head so unsure that no probability is below 1e-7."""
    return replace(rows(), weight=rows().weight / 8, bias=rows().bias / 8)


@functools.cache
def peers() -> Peers:
    return Peers(rows())
