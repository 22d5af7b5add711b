"""Whether a monitor belongs into the graph of this model."""

from __future__ import annotations

from demur.adapters.models.graph_file import ModelFile
from demur.adapters.models.instrument.check import instrumented_from
from demur.monitor.bundle import Bundle
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError

OUTSIDE = {
    "detection": "boxes of a detector",
    "segmentation": "frames of a segmentation model",
    "views": "several views of an input",
}


def check_rows(mapped: SignalMapConfig, bundle: Bundle) -> None:
    """A monitor of what is decoded outside the graph, or of further calls, cannot be in the graph. Raises: ConfigurationError."""
    document, manifest = mapped.model_dump(exclude_none=True), bundle.manifest
    judged = [name for name in ("detection", "segmentation") if name in document or name in manifest.decoding.document]
    if mapped.views is not None and mapped.views.signal in {s.name for s in manifest.signals}:
        judged.append("views")
    if judged:
        raise ConfigurationError(
            f"monitor {manifest.monitor} judges {OUTSIDE[judged[0]]}, which demur makes of the outputs outside the graph, so there is "
            "nothing to fuse: serve it beside the model, in front of an inference server (`demur serve` with this signal map), "
            "or call it in Python; `demur instrument` and --signal do not help here"
        )


def check_model(file: ModelFile, bundle: Bundle) -> None:
    """A bundle that names its model by digest is fused into that model only, instrumented or not; so is one whose tables
    say which model's file they were collected from.

    Raises: ConfigurationError.
    """
    manifest = bundle.manifest
    named, collected = manifest.model.get("digest", ""), "" if manifest.origin is None else manifest.origin.model
    known = [digest for digest in dict.fromkeys((file.digest, instrumented_from(file))) if digest]
    wanted, how = (named, "fitted for") if named else (collected, "fitted on signals of")
    if wanted and known and wanted not in known:
        raise ConfigurationError(
            f"{file.name}: monitor {manifest.monitor} was {how} the model with SHA-256 {wanted[:16]}..., this is "
            f"{', instrumented from '.join(digest[:16] + '...' for digest in known)}; give that model, or collect from this one and fit again"
            + ("" if named else " (where both are one model, name this one's digest under `model:` of the policy)")
        )
