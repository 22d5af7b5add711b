"""Taps and guards on PyTorch models, against the modules called by hand, and against ONNX and a server on the same weights."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402

import demur  # noqa: E402
from demur.adapters.clients import torch_watch  # noqa: E402
from demur.adapters.clients.torch import Guarded, SignalTap, TableWriter, mask_refused  # noqa: E402
from demur.adapters.models.collect import collect  # noqa: E402
from demur.adapters.models.collect.model import Access  # noqa: E402
from demur.detectors.reason import Reason  # noqa: E402
from demur.monitor.client.client import Client  # noqa: E402
from demur.monitor.errors import ConfigurationError, InvalidObservation  # noqa: E402
from demur.monitor.fit.table import load_table  # noqa: E402
from tests.conftest import C, D, draw  # noqa: E402
from tests.models import small  # noqa: E402
from tests.models.oip_server import Served, Serving  # noqa: E402


class Small(nn.Module):
    """The graph of tests/models/small.py, in PyTorch."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(small.INPUT, small.HIDDEN), nn.ReLU())
        self.extra = nn.Linear(small.HIDDEN, small.CLASSES)  # of the right shape, and not the head
        self.head = nn.Linear(small.HIDDEN, small.CLASSES)
        w = {name: torch.from_numpy(array) for name, array in small.weights().items()}
        with torch.no_grad():
            for layer, number in ((self.body[0], 1), (self.head, 2)):
                layer.weight.copy_(w[f"w{number}"].T)
                layer.bias.copy_(w[f"b{number}"])

    def forward(self, x):
        return self.head(self.body(x))


class Conv(nn.Module):
    """Convolution, ReLU in place, pooling to (N, C, 1, 1), dropout, head; the output as Hugging Face gives it."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True)
        self.pool, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5), nn.Linear(6, 4, bias=False)

    def forward(self, x, *, fail=False):
        pooled = self.pool(self.act(self.conv(x)))
        if fail:
            raise RuntimeError("of the model")
        return {"logits": self.fc(self.drop(pooled.flatten(1))), "loss": None}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_tap_a_file_and_two_servers_say_the_same(here):
    rows, label = small.inputs(45), np.arange(45) % small.CLASSES
    Path("model.onnx").write_bytes(small.graph())
    dataset = {"image": rows, "label": label}
    collect("model.onnx", dataset, "file.npz")
    with Serving(Served(small.graph())) as serving:
        for name in ("grpc", "http"):
            collect(getattr(serving, name), dataset, f"{name}.npz", access=Access("digits"))
    model = Small()
    with SignalTap(model, "body") as tap, TableWriter("tap.npz") as table:
        for start in range(0, 45, 10):
            model(torch.from_numpy(rows[start : start + 10]))
            table.append(
                tap.rows(labels=torch.from_numpy(label[start : start + 10]), id=np.arange(start, min(start + 10, 45)))
            )
        table.head(tap.head())
    tables = {name: load_table(f"{name}.npz") for name in ("file", "grpc", "http", "tap")}
    features, logits = small.expected(rows)
    for table in tables.values():
        close(table.signals["features"], features)
        close(table.signals["logits"], logits)
        for column in ("label", "id", "prediction"):
            np.testing.assert_array_equal(getattr(table, column), getattr(tables["file"], column))
    np.testing.assert_array_equal(tables["tap"].head_weight, small.weights()["w2"].T)
    np.testing.assert_array_equal(tables["tap"].head_bias, small.weights()["b2"])


def test_fit_takes_what_a_tap_wrote(here):
    found = draw(900, 5)
    model = nn.Sequential(nn.Identity(), nn.Linear(D, C, bias=False))
    weight, *_ = np.linalg.lstsq(found["features"].astype(np.float64), found["logits"].astype(np.float64), rcond=None)
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(weight.T.astype(np.float32)))
    for name, part in (("ref", slice(0, 450)), ("cal", slice(450, 900))):
        with SignalTap(model) as tap, TableWriter(f"{name}.parquet") as table, torch.no_grad():
            model(torch.from_numpy(found["features"][part]))
            table.append(tap.rows(labels=found["label"][part]))
    policy = {
        "monitor": "tapped",
        "signals": {"logits": C, "features": D},
        "scores": ["energy", {"mahalanobis": {}}],
        "rules": [{"novel": {"when": "mahalanobis", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    monitor = demur.Monitor.of(demur.fit(policy, reference="ref.parquet", calibration="cal.parquet"))
    guarded = Guarded(model, monitor)
    _, good = guarded(torch.from_numpy(draw(200, 6)["features"]))
    _, foreign = guarded(torch.from_numpy(draw(200, 6, shift=6.0)["features"]))
    assert good.accept.mean() > 0.85
    assert foreign.accept.mean() < 0.1


def test_features_by_name_by_module_and_by_default(here):
    torch.manual_seed(0)
    model = Conv().eval()
    images = torch.randn(5, 3, 8, 8)
    pooled = model.pool(torch.relu(model.conv(images))).flatten(1).detach().numpy()
    for place in ("pool", model.pool, None):
        with SignalTap(model, place) as tap:
            wanted = model(images)["logits"].detach().numpy()
            rows = tap.rows()
        close(rows["features"], pooled)
        close(rows["logits"], wanted)
        assert set(rows) == {"features", "logits", "prediction"}
        head = tap.head()
        np.testing.assert_array_equal(head["head_weight"], model.fc.weight.detach().numpy())
        np.testing.assert_array_equal(head["head_bias"], np.zeros(4, np.float32))


def test_an_activation_in_place_does_not_change_what_was_seen(here):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    x = torch.randn(9, 4)
    with SignalTap(model, "0") as tap:
        model(x)
        found = tap.rows()["features"]
    close(found, (x @ model[0].weight.T + model[0].bias).detach().numpy())
    assert (found < 0).any()


def test_a_training_step_is_not_disturbed(here):
    def trained(tapped):
        torch.manual_seed(1)
        model = Conv().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        tap = SignalTap(model, "pool") if tapped else None
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6) % 4
            loss = nn.functional.cross_entropy(model(images)["logits"], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if tap is not None:
                assert model.training
                assert not any(isinstance(v, torch.Tensor) for v in tap.rows(labels=labels).values())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(tapped=True), trained(tapped=False))


def test_what_was_seen_holds_no_graph(here):
    model = Small()
    with SignalTap(model, "body") as tap:
        x = torch.randn(3, small.INPUT, requires_grad=True) * 2
        held, output = weakref.ref(x), model(x)
        assert output.requires_grad
        del x, output
        gc.collect()
        assert held() is None
        assert len(tap.rows()["features"]) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_become_float32(here, dtype):
    model, x = Small().to(dtype), torch.from_numpy(small.inputs(8)).to(dtype)
    with SignalTap(model, "body") as tap, torch.inference_mode():
        wanted = model(x)
        rows = tap.rows()
    assert rows["features"].dtype == rows["logits"].dtype == np.float32
    np.testing.assert_array_equal(rows["logits"], wanted.float().numpy())
    close(tap.head()["head_weight"], model.head.weight.float().detach().numpy(), 0)


def test_autocast(here):
    model, x = Small(), torch.from_numpy(small.inputs(8))
    with SignalTap(model) as tap, torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        rows = tap.rows()
    close(rows["logits"], small.expected(x.numpy())[1], 0.1)
    assert rows["logits"].dtype == np.float32
    np.testing.assert_array_equal(tap.head()["head_weight"], model.head.weight.detach().numpy())


def test_several_passes_are_one_lot_of_rows(here):
    model, x = Small(), torch.from_numpy(small.inputs(9))
    with SignalTap(model, "body", early="body.0") as tap:
        model(x[:4])
        model(x[4:])
        rows = tap.rows(labels=list(range(9)), id=[f"r{i}" for i in range(9)])
        with pytest.raises(InvalidObservation, match="got none"):
            tap.rows()
        model(x)
        with pytest.raises(InvalidObservation, match="label: expected 9 rows"):
            tap.rows(labels=[1, 2])
    close(rows["features"], small.expected(x.numpy())[0])
    close(np.maximum(rows["early"], 0), rows["features"])
    assert rows["label"].tolist() == list(range(9))


def test_hooks_are_gone_afterwards_also_after_an_error(here):
    model = Conv()

    def fails():
        with SignalTap(model, "pool", early="conv"):
            assert hooks(model) == 4
            model(torch.randn(2, 3, 8, 8), fail=True)

    with pytest.raises(RuntimeError, match="of the model"):
        fails()
    assert hooks(model) == 0
    with pytest.raises(ConfigurationError, match=r'no module pol; did you mean "pool"'):
        SignalTap(model, "pol")
    with pytest.raises(ConfigurationError):
        SignalTap(model, early="nothing")
    assert hooks(model) == 0


def test_a_failed_pass_leaves_no_rows_behind(here):
    model = Conv()
    with SignalTap(model, "pool") as tap:
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 3, 8, 8), fail=True)
        model(torch.randn(3, 3, 8, 8))
        assert len(tap.rows()["features"]) == 3


def test_places_that_give_no_rows_are_named(here):
    model = Conv()
    with SignalTap(model, "conv") as tap:
        model(torch.randn(2, 3, 8, 8))
        with pytest.raises(InvalidObservation, match=r"features: expected \(N, width\) floats, got \(2, 6, 6, 6\)"):
            tap.rows()
    other = Small()
    with SignalTap(other, "extra") as tap:
        other(torch.zeros(2, small.INPUT))
        with pytest.raises(InvalidObservation, match="features: its module was not called"):
            tap.rows()
        with pytest.raises(InvalidObservation, match=r"rows\(\) before head"):
            tap.head()
    with pytest.raises(ConfigurationError, match="no Linear layer"):
        SignalTap(nn.Conv2d(3, 3, 1))


class Dressed(nn.Module):
    """A part whose output no hook can take rows from."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(small.INPUT, small.HIDDEN)

    def forward(self, x):
        return {"last_hidden_state": self.inner(x)}


class Undressing(nn.Module):
    def __init__(self):
        super().__init__()
        self.part, self.head = Dressed(), nn.Linear(small.HIDDEN, small.CLASSES)

    def forward(self, x):
        return self.head(self.part(x)["last_hidden_state"])


def test_a_place_that_gives_no_tensor_never_fails_the_models_pass(here, bundle):
    model, x = Undressing(), torch.from_numpy(small.inputs(4))
    wanted = model(x)
    with SignalTap(model, "part") as tap:
        assert torch.equal(model(x), wanted)
        with pytest.raises(InvalidObservation, match="features: expected a tensor, got dict"):
            tap.rows()
    output, verdicts = Guarded(model, demur.Monitor.of(bundle), "part")(x)
    assert torch.equal(output, wanted)
    assert verdicts.kinds(0) == Reason.UNAVAILABLE
    assert "expected a tensor, got dict" in verdicts.cause


def test_what_the_script_does_to_the_output_changes_no_row(here):
    model, x = Small(), torch.from_numpy(small.inputs(5))
    with SignalTap(model, "body") as tap, torch.no_grad():
        model(x).mul_(10)
        close(tap.rows()["logits"], small.expected(x.numpy())[1])


def test_an_empty_batch_is_no_rows(here):
    model, x = Small(), torch.from_numpy(small.inputs(5))
    with SignalTap(model, "body") as tap:
        model(x[:0])
        model(x)
        assert {name: len(rows) for name, rows in tap.rows().items()} == {"features": 5, "logits": 5, "prediction": 5}


def test_a_signal_named_like_a_column_is_refused(here):
    model = Small()
    with pytest.raises(ConfigurationError, match="label means something else"):
        SignalTap(model, "body", label="extra")
    assert hooks(model) == 0


def test_a_head_that_does_not_make_the_logits_is_not_found(here):
    model = Small()
    with SignalTap(model, "body.0") as tap:  # before the ReLU
        model(torch.from_numpy(small.inputs(9)))
        tap.rows()
        with pytest.raises(ConfigurationError, match="no Linear layer turns these features"):
            tap.head()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo's own, at every break of a graph
def test_a_compiled_model(here):
    x = torch.from_numpy(small.inputs(7))
    for place in ("body", None):
        torch.compiler.reset()
        compiled = torch.compile(Small(), backend="eager")
        with SignalTap(compiled, place) as tap:
            for part in (x, x, x[:3]):
                compiled(part)
                rows = tap.rows()
                close(rows["features"], small.expected(part.numpy())[0])
                close(rows["logits"], small.expected(part.numpy())[1])
            assert tap.head()["head_weight"].shape == (small.CLASSES, small.HIDDEN)
        compiled(x)  # a hook that the graph still holds does nothing any more


def test_a_model_that_was_compiled_and_called_before_says_so(here):
    torch.compiler.reset()
    compiled = torch.compile(Small(), backend="eager")
    x = torch.from_numpy(small.inputs(7))
    compiled(x)
    with SignalTap(compiled, "body") as tap:
        compiled(x)
        with pytest.raises(InvalidObservation, match="make the tap before the compiled model is called"):
            tap.rows()


def test_data_parallel_without_devices_and_worker_threads(here):
    model = Small()
    parallel = nn.DataParallel(model)
    x = torch.from_numpy(small.inputs(7))
    with SignalTap(parallel, "body") as tap:
        parallel(x)
        close(tap.rows()["features"], small.expected(x.numpy())[0])
    # What DataParallel does on two devices: replicas in threads of their own, outputs gathered in order of devices.
    watch = torch_watch.Watch(parallel, "body", None, {})
    frame = watch.open()
    outputs = {}

    def replica(device):
        part = torch.from_numpy(small.inputs(7))[:4] if device == 0 else torch.from_numpy(small.inputs(7))[4:]
        outputs[device] = model(OnDevice.of(part, device))

    threads = [threading.Thread(target=replica, args=(device,)) for device in (1, 0)]
    for thread in threads:
        thread.start()
        thread.join()
    watch.drop(frame)
    found = watch.signals(frame, torch.cat([outputs[0].plain(), outputs[1].plain()]))
    close(found["features"], small.expected(x.numpy())[0])
    watch.remove()


class OnDevice(torch.Tensor):
    """A tensor that says it lies on another device."""

    @staticmethod
    def of(tensor, device):
        found = tensor.as_subclass(OnDevice)
        found.place = device
        return found

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        places = [a.place for a in args if isinstance(a, OnDevice) and hasattr(a, "place")]
        if func is torch.Tensor.get_device:
            return places[0]
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, OnDevice) and places:
            result.place = places[0]
        return result

    def plain(self):
        return self.as_subclass(torch.Tensor)


# Guards


@pytest.fixture(scope="module")
def toy():
    """A model whose features are its inputs, of the toy bundle's shapes."""
    found = draw(300, 7)
    model = nn.Sequential(nn.Identity(), nn.Linear(D, C, bias=False))
    weight, *_ = np.linalg.lstsq(found["features"].astype(np.float64), found["logits"].astype(np.float64), rcond=None)
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(weight.T.astype(np.float32)))
    return model


def test_a_guard_says_what_the_monitor_says(toy, bundle):
    monitor = demur.Monitor.of(bundle)
    x = torch.from_numpy(np.concatenate([draw(40, 8)["features"], draw(40, 8, shift=5.0)["features"]]))
    guarded = Guarded(toy, monitor)
    output, verdicts = guarded(x)
    assert torch.equal(output, toy(x))
    wanted = monitor.assess(features=x.numpy(), logits=output.detach().numpy())
    np.testing.assert_array_equal(verdicts.accept, wanted.accept)
    np.testing.assert_array_equal(verdicts.scores, wanted.scores)
    assert 0 < verdicts.accept.sum() < 80
    masked = mask_refused(output, verdicts)
    assert torch.isnan(masked).any(dim=1).numpy().tolist() == (~verdicts.accept).tolist()
    assert torch.equal(masked[torch.from_numpy(verdicts.accept)], output[torch.from_numpy(verdicts.accept)])
    answers = mask_refused(output.argmax(1), verdicts, -1)
    assert (answers.numpy() == -1).tolist() == (~verdicts.accept).tolist()
    with pytest.raises(InvalidObservation, match="fill=NUMBER"):
        mask_refused(output.argmax(1), verdicts)
    with pytest.raises(InvalidObservation, match="one verdict for each"):
        mask_refused(output[:3], verdicts)
    guarded.close()
    assert hooks(toy) == 0


def test_what_a_monitor_cannot_take_is_an_abstention_not_an_error(toy, bundle):
    guarded = Guarded(Small(), demur.Monitor.of(bundle), "body")  # other widths than the bundle's
    output, verdicts = guarded(torch.from_numpy(small.inputs(6)))
    assert len(output) == len(verdicts) == 6
    assert not verdicts.accept.any()
    assert verdicts.kinds(0) == Reason.UNAVAILABLE
    assert "features" in verdicts.cause
    unreached = Guarded(Small(), demur.Monitor.of(bundle), "extra")
    assert "was not called" in unreached(torch.zeros(4, small.INPUT))[1].cause
    with pytest.raises(RuntimeError, match="of the model"):
        Guarded(Conv(), demur.Monitor.of(bundle), "pool")(torch.randn(2, 3, 8, 8), fail=True)


def test_a_failure_in_process_is_acted_on_and_told_like_any_other(toy, bundle):
    from demur.monitor.engine import Conduct
    from demur.monitor.verdicts import Action

    events = []
    monitor = demur.Monitor.of(bundle, conduct=Conduct("enforce"), listeners=[events.append])
    _, verdicts = Guarded(Small(), monitor, "body")(torch.zeros(3, small.INPUT))
    assert (verdicts.actions == int(Action.BLOCK)).all()
    assert len(events) == 1


def test_a_row_that_is_not_finite_is_invalid(toy, bundle):
    x = torch.from_numpy(draw(5, 9)["features"])
    x[2, 0] = float("nan")
    _, verdicts = Guarded(toy, demur.Monitor.of(bundle))(x)
    assert verdicts.kinds(2) & Reason.INVALID
    assert not verdicts.accept[2]


def test_a_client_whose_server_is_away(toy):
    with Client("127.0.0.1:9", timeout_seconds=0.5) as client:
        output, verdicts = Guarded(toy, client, name="toy")(torch.zeros(4, D))
        assert output.shape == (4, C)
        assert not verdicts.accept.any()
        assert verdicts.kinds(0) == Reason.UNAVAILABLE
        assert client.failures


def test_a_client_and_its_server(toy, bundle, tmp_path):
    from demur.monitor.config.server import ServerConfig
    from demur.monitor.service.server import Server

    bundle.save(tmp_path / "toy.demur")
    config = ServerConfig.model_validate({
        "listen": ["127.0.0.1:0"], "monitors": [{"name": "toy", "bundle": str(tmp_path / "toy.demur")}],
    })  # fmt: skip
    x = torch.from_numpy(draw(20, 8)["features"])
    with Server(config) as server, Client(server.addresses[0], timeout_seconds=10) as client:
        output, verdicts = Guarded(toy, client, name="toy")(x)
    wanted = demur.Monitor.of(bundle).assess(features=x.numpy(), logits=output.detach().numpy())
    np.testing.assert_array_equal(verdicts.accept, wanted.accept)


def test_threads_do_not_mix_their_rows(toy, bundle):
    guarded, faults = Guarded(toy, demur.Monitor.of(bundle)), []

    def work(seed):
        x = torch.from_numpy(draw(3 + seed, seed)["features"])
        for _ in range(30):
            output, verdicts = guarded(x)
            wanted = guarded.monitor.assess(features=x.numpy(), logits=output.detach().numpy())
            if not np.array_equal(verdicts.scores, wanted.scores, equal_nan=True):
                faults.append(seed)
            guarded.model(x + 1)  # past the guard

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
