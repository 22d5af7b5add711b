"""Which outputs are which signals: the bundle's own word, a signal map, the configuration; decoders; further calls."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from demur.adapters.models.output_adapter import Observed
from demur.adapters.servers.oip import mapping
from demur.adapters.servers.oip.reading import Again, Answered, Asked
from demur.detectors.reason import Reason
from demur.monitor.bundle import Bundle
from demur.monitor.bundle.manifest import Manifest, OriginEntry, SignalEntry
from demur.monitor.config.decoding import decoding_of
from demur.monitor.config.document import parse
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.engine import Conduct
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.loaded import Loaded
from tests.adapters.conftest import request
from tests.adapters.test_oip_extras import image, read, same
from tests.adapters.test_oip_remedies import values
from tests.service.bundles import group_bundle, row_bundle


def naming(bundle: Bundle, output: str) -> Bundle:
    """The bundle with its signal's output named."""
    return told(bundle, signals=[s.model_copy(update={"output": output}) for s in bundle.manifest.signals])


def told(bundle: Bundle, **changed: object) -> Bundle:
    """The bundle with other words in its manifest."""
    own = {n: getattr(bundle.manifest, n) for n in Manifest.model_fields}
    fields = {n: v for n, v in own.items() if n not in ("members", "rules_digest", "schema_version")}
    return Bundle.build(dict(bundle.members), **{**fields, **changed})


def decoded(bundle: Bundle, chart: dict[str, object]) -> Bundle:
    """The bundle as if its tables had been collected with this map."""
    found = decoding_of(parse(SignalMapConfig, chart, "the map"))
    return told(bundle, origin=OriginEntry(decoding=dict(found.document), decoding_digest=found.digest))


@pytest.mark.parametrize(
    ("signals", "chart", "output", "expected"),
    [
        ({"logits": "scores"}, {"signals": {"logits": "features"}}, "label", "scores"),
        ({}, {"signals": {"logits": "scores"}}, "label", "scores"),
        ({}, None, "scores", "scores"),
        ({}, {"signals": {"features": "features"}}, "scores", "scores"),
        ({}, None, None, "logits"),
    ],
)
def test_configuration_comes_before_map_before_bundle_before_the_signals_own_name(
    honest, signals, chart, output, expected
):
    bundle = row_bundle() if output is None else naming(row_bundle(), output)
    proxy = honest.proxy(bundle=bundle, model={"signals": signals, "map": chart})
    asked = image(("label",))
    assert same(honest.infer(proxy, asked), honest.direct(asked))
    assert [o.name for o in honest.upstream.seen[0].outputs][1:] == [expected]
    assert honest.verdicts.accept.tolist() == [expected == "scores", False]


def test_a_map_may_be_a_file(honest, tmp_path):
    (tmp_path / "model.signals.yaml").write_text("signals: {logits: scores}\n")
    honest.infer(honest.proxy(model={"signals": {}, "map": str(tmp_path / "model.signals.yaml")}), image())
    assert honest.verdicts.accept.tolist() == [True, False]


@pytest.mark.parametrize("text", ["signals: [1]\n", "other: 1\n", None])
def test_a_map_that_cannot_be_read_is_named(honest, tmp_path, text):
    path = tmp_path / "model.signals.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"model\.signals\.yaml"):
        honest.proxy(model={"signals": {}, "map": str(path)})


def test_the_output_is_written_in_monitor_yaml_and_kept_in_the_bundle():
    document = {
        "monitor": "m", "signals": {"features": {"width": 64, "output": "features_out"}, "logits": 8},
        "scores": ["msp"], "rules": [{"novel": {"when": "msp", "promise": {"refuse_good_at_most": 0.1}}}],
    }  # fmt: skip
    policy = parse(PolicyConfig, document, "test")
    assert [s.output for s in policy.signals.values()] == ["features_out", None]
    bundle = naming(row_bundle(), "scores")
    assert Manifest.decode(bundle.manifest.encode()).signals[0].output == "scores"


def test_bundles_from_before_keep_their_bytes_and_load():
    raw = row_bundle().manifest.encode()
    assert b'"output"' not in raw
    assert Manifest.decode(raw).signals[0].output is None
    assert SignalEntry.model_validate({"name": "a", "width": 1, "kind": "features"}).output is None


@dataclass
class Boxes:
    """Each image of `features` has as many boxes as its `label` says, at most 2; a box scores like its image."""

    outputs: tuple[str, ...] = ("label", "scores")
    breaks: str = ""

    def observe(self, tensors):
        if self.breaks:
            raise InvalidObservation(self.breaks)
        counts = (
            np.minimum(tensors["label"], 2) if (tensors["label"] > 0).all() else np.zeros(len(tensors["label"]), int)
        )
        ids = np.repeat(np.arange(len(counts)), counts)
        return Observed({"logits": tensors["scores"][ids]}, len(counts), ids.astype(np.int64))

    def without(self, tensors, refused):
        owner = self.observe(tensors).group_id
        label = tensors["label"].copy()
        for image_number in owner[refused]:
            label[image_number] -= 1
        return {"label": label, "scores": tensors["scores"]}


@pytest.fixture
def boxes(monkeypatch):
    found = Boxes()
    monkeypatch.setattr(mapping, "output_adapter", lambda *_: found)
    return found


def test_a_decoders_rows_are_judged_by_group_and_its_outputs_asked_for(honest, boxes):
    proxy = honest.proxy(bundle=group_bundle(), model={"signals": {}, "map": {}}, annotate=True)
    got = read(honest.infer(proxy, image(("features",))))
    assert [o.name for o in got.outputs] == ["features"]
    assert [o.name for o in honest.upstream.seen[0].outputs] == ["features", *boxes.outputs]
    assert honest.verdicts.accept.tolist() == [True, True, False, False]
    assert honest.verdicts.groups.accept.tolist() == [True, False]
    assert got.parameters["demur.group_accept"].string_param == "[true,false]"
    assert got.parameters["demur.verdict"].string_param == "ABSTAIN"


def test_a_decoder_takes_refused_rows_out(honest, boxes):
    model = {"signals": {}, "map": {}, "on_abstain": "replace"}
    proxy = honest.proxy(bundle=row_bundle(), model=model, conduct=Conduct("enforce"))
    got = read(honest.infer(proxy, image()))
    assert values(got, "label") == [3, 5]
    assert values(got, "scores") == values(read(honest.direct(image())), "scores")
    assert got.parameters["demur.action"].string_param == "REPLACE"


DETECTION = {"detection": {"layout": "yolov8", "classes": 3, "image": [64, 64]}}


def test_a_map_that_decodes_otherwise_than_the_bundles_is_refused_at_start(honest, boxes):
    other = {"detection": {**DETECTION["detection"], "iou": 0.6}}
    bundle = decoded(group_bundle(), DETECTION)
    with pytest.raises(ConfigurationError, match=r"monitor toy: contract: .*detection\.iou: expected 0\.45, got 0\.6"):
        honest.proxy(bundle=bundle, model={"signals": {}, "map": other})
    with pytest.raises(ConfigurationError, match="detection: expected a section of that name"):
        honest.proxy(bundle=bundle, model={"signals": {"logits": "scores"}})
    honest.infer(honest.proxy(bundle=bundle, model={"signals": {}, "map": DETECTION}), image())
    assert not honest.verdicts.cause
    honest.decisions.clear()
    honest.infer(honest.proxy(bundle=group_bundle(), model={"signals": {}, "map": other}), image())
    assert not honest.verdicts.cause, "nothing is known of that bundle's decoding"


def test_a_bundle_activated_later_that_was_decoded_otherwise_is_unavailable(honest, boxes):
    other = {"detection": {**DETECTION["detection"], "floor": 0.5}}
    proxy = honest.proxy(bundle=decoded(group_bundle(), DETECTION), model={"signals": {}, "map": DETECTION})
    model = proxy.models["digits"]
    before = model.engine.activate(Loaded.open(decoded(group_bundle(), other)))
    asked = image()
    assert honest.infer(proxy, asked) == honest.direct(asked)
    assert not honest.verdicts.accept.any()
    assert (honest.verdicts.reason_bits == Reason.UNAVAILABLE).all()
    assert "contract: signals are decoded otherwise" in honest.verdicts.cause
    assert "detection.floor: expected 0.5, got 0.25; correct the signal map" in honest.verdicts.cause
    honest.decisions.clear()
    model.engine.activate(before)
    honest.infer(proxy, asked)
    assert not honest.verdicts.cause


def test_a_layout_that_is_not_there_abstains_with_the_decoders_words(honest, boxes):
    boxes.breaks = "boxes: expected (B, 84, A)"
    asked = image()
    assert honest.infer(honest.proxy(model={"signals": {}, "map": {}}), asked) == honest.direct(asked)
    assert honest.verdicts.cause == "boxes: expected (B, 84, A)"


def test_an_answer_without_rows_abstains(honest, boxes):
    original = honest.upstream.answer

    def empty(asked):
        message = original(asked)
        place = [o.name for o in message.outputs].index("label")
        message.raw_output_contents[place] = bytes(16)
        return message

    honest.upstream.answer = empty
    asked = image()
    assert honest.infer(honest.proxy(model={"signals": {}, "map": {}}), asked) == honest.direct(asked)
    assert len(honest.verdicts) == 0
    assert "nothing that this monitor judges" in honest.verdicts.cause
    honest.decisions.clear()
    honest.infer(honest.proxy(bundle=group_bundle(), model={"signals": {}, "map": {}}), asked)
    assert honest.verdicts.groups.accept.tolist() == [False, False]


@dataclass
class TwiceLooked:
    """The mean of the scores over the image and its mirror."""

    signals: tuple[str, ...] = ("logits",)
    outputs: tuple[str, ...] = ("scores",)
    seconds: float | None = None

    def __call__(self, asked: Asked, answered: Answered, again: Again, seconds: float | None):
        self.seconds = seconds
        picture = asked.inputs()["image"].array(1 << 20)
        views = [again({"image": picture * sign}, seconds).tensor("scores").array(1 << 20) for sign in (1, -1)]
        return {"logits": np.mean(views, axis=0, dtype=np.float32)}


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("outputs", [(), ("label",)])
def test_signals_may_come_from_further_calls(honest, monkeypatch, outputs, typed):
    looked = TwiceLooked()
    monkeypatch.setattr(mapping, "further_views", lambda *_: looked)
    proxy = honest.proxy(model={"map": {}}, conduct=Conduct(budget_seconds=5))
    asked = image(outputs, typed=typed, rows=[1.0, 2.0])
    assert same(honest.infer(proxy, asked), honest.direct(asked))
    assert 0 < looked.seconds <= 5
    assert [m.outputs[-1].name if outputs else "" for m in honest.upstream.seen] == (
        ["scores"] * 3 if outputs else [""] * 3
    ) + [outputs[0] if outputs else ""]
    assert honest.verdicts.scores[:, 0].tolist() == [-3.0, -3.0]


def test_a_request_of_a_sequence_is_not_asked_again(honest, monkeypatch):
    monkeypatch.setattr(mapping, "further_views", lambda *_: TwiceLooked())
    honest.infer(honest.proxy(model={"map": {}}), image(sequence_id=3))
    assert len(honest.upstream.seen) == 1
    assert "the model keeps its state" in honest.verdicts.cause


def test_a_further_call_that_fails_abstains(honest, monkeypatch):
    monkeypatch.setattr(mapping, "further_views", lambda *_: TwiceLooked())
    calls = []
    original = honest.upstream.answer

    def second_fails(message):
        calls.append(message)
        if len(calls) > 1:
            raise LookupError(grpc.StatusCode.INTERNAL, "device lost")
        return original(message)

    honest.upstream.answer = second_fails
    honest.infer(honest.proxy(model={"map": {}}), image())
    assert "device lost" in honest.verdicts.cause
    assert honest.verdicts.reason_bits.tolist() == [int(Reason.UNAVAILABLE)] * 2


def test_rows_and_groups_of_a_decoder_are_limited(honest, boxes):
    honest.infer(honest.proxy(model={"signals": {}, "map": {}}, limits=LimitsConfig(rows=3)), image())
    assert "rows = 3" in honest.verdicts.cause


def test_a_newer_bundle_is_mapped_anew(stage):
    from tests.adapters.conftest import answer

    stage.upstream.says(answer())
    proxy = stage.proxy(model={"signals": {}}, bundle=naming(row_bundle(), "elsewhere"))
    stage.infer(proxy, request())
    assert "elsewhere" in stage.verdicts.cause
