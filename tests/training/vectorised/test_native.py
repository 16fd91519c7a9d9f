"""The native engine, against PyTorch's modules, losses and optimisers run by run, and the status tracker."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regx.errors import RunFailed
from regx.models import Rectangular
from regx.models.activations import ACTIVATIONS
from regx.regularizers import Jumpstart
from regx.regularizers.jumpstart import MODES
from regx.training.status import StatusTracker
from regx.training.vectorised import native
from regx.training.vectorised.native import Constraints, Measured, Parameters

INPUTS = 3
OUTPUTS = {"binary": 1, "multiclass": 3, "regression": 2}
INFINITY = float("inf")
# Each has to be compiled, which takes a second.
WIDTHS: dict[str, int] = dict(zip(native.ACTIVATIONS, (4, 3, 5, 1, 6, 8, 5, 2), strict=True))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    obstacle = native.obstacle()
    if obstacle:
        pytest.skip(f"no native engine: {obstacle}")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(native.load, WIDTHS.values(), WIDTHS))


@dataclass
class Problem:
    """R networks with their data; every tensor leads with the runs."""

    task: str
    models: list[Rectangular]
    x: Tensor
    y: Tensor
    order: Tensor

    @property
    def width(self) -> int:
        return self.models[0].hidden["layer0"].out_features  # type: ignore[return-value]


def problem(
    task: str, runs: int = 4, rows: int = 41, depth: int = 5, width: int = 4, activation: str = "relu"
) -> Problem:
    torch.manual_seed(3)
    models = [
        Rectangular((INPUTS,), OUTPUTS[task], depth=depth, width=width, activation=activation, init=init)  # type: ignore[arg-type]
        for init, _ in zip(["kaiming", "orthogonal"] * runs, range(runs), strict=False)
    ]
    for model in models:  # a wide spread: some extremes are inside of the margins, some outside
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.5)
    x = torch.randn(runs, rows, INPUTS)
    if task == "regression":
        y = torch.stack([x.prod(2), x.sum(2).sin()], 2)
    else:
        y = torch.randint(max(OUTPUTS[task], 2), (runs, rows))
    order = torch.stack([torch.randperm(rows)[:38] for _ in range(runs)])
    return Problem(task, models, x, y, order)


def parameters(models: list[Rectangular]) -> Parameters:
    layers = [[m for m in model.hidden.values() if isinstance(m, nn.Linear)] for model in models]
    depth, width = len(layers[0]), layers[0][0].out_features
    hidden = [torch.stack([run[i].weight for run in layers]) for i in range(1, depth)]
    tensors = (
        torch.stack([run[0].weight for run in layers]),
        torch.stack(hidden) if hidden else torch.empty(0, len(models), width, width),
        torch.stack([torch.stack([run[i].bias for run in layers]) for i in range(depth)]),
        torch.stack([model.head.weight for model in models]),
        torch.stack([model.head.bias for model in models]),
    )
    return Parameters(*(tensor.detach().float().clone() for tensor in tensors))


def zeros(like: Parameters) -> Parameters:
    return Parameters(*(torch.zeros_like(getattr(like, item.name)) for item in fields(like)))


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def constraints(mode: str, rho: float, **margins: float) -> Constraints:
    weights = (rho, 1 - rho, rho, 1 - rho)
    return Constraints(*(weight if kept else 0.0 for weight, kept in zip(weights, MODES[mode], strict=True)), **margins)


def task_loss(task: str, out: Tensor, y: Tensor) -> Tensor:
    if task == "binary":
        return F.binary_cross_entropy_with_logits(out.squeeze(1), y.to(out.dtype))
    return F.cross_entropy(out, y) if task == "multiclass" else F.mse_loss(out, y.to(out.dtype))


def counts(task: str, out: Tensor, y: Tensor) -> Tensor:
    if task == "regression":
        return torch.cat([(out - y).square().sum(0), (out - y).abs().sum(0)]).double()
    predicted = out.squeeze(1) > 0 if task == "binary" else out.argmax(1)
    return (predicted == y).sum().double().reshape(1)


def statuses(found: Measured, run: int, rows: int, updates: int) -> list[float]:
    """The sixteen numbers of `StatusTracker.compute` of one run's sums."""
    sums = dict(zip(native.STATUS, found.status[run].tolist(), strict=True))
    positive, nonpositive = found.ever_positive[run], found.ever_nonpositive[run]
    units, cells = positive.numel(), rows * len(positive)
    of_units = [sums[f"{sign}_unit"] / units / updates for sign in ("positive", "negative")]
    of_points = [sums[f"{sign}_point"] / cells for sign in ("positive", "negative")]
    ratios = [(~positive).sum(), (~nonpositive).sum(), (positive & nonpositive).sum()]
    numbers = [*of_units, *of_points, sum(of_units) / 2, sum(of_points) / 2, *(float(n) / units for n in ratios)]
    numbers += [sums[f"points_{name}"] / rows for name in ("dead", "linear", "nonlinear")]
    dead, linear, efficient = (sums[f"cells_{name}"] for name in ("dead", "linear", "efficient"))
    return [*numbers, dead / cells, linear / cells, (cells - dead - linear) / cells, efficient / cells]


def trained(data: Problem, steps: list[Tensor], size: int, **options: Any) -> tuple[Parameters, list[Measured | None]]:
    """Trains from the weights of `data.models`; every member of `steps` is the order of one call."""
    runs = len(data.models)
    weights = parameters(data.models)
    first, second, t = zeros(weights), zeros(weights), torch.zeros(runs, dtype=torch.int64)
    activation = type(data.models[0].hidden["activation0"])
    name = next(key for key, (make, _) in ACTIVATIONS.items() if make is activation)
    options = {"optimizer": "adam", "lr": torch.full((runs,), 0.01, dtype=torch.float64)} | options
    kernel = native.load(data.width, name)
    found = [
        kernel.train(data.x, data.y, order, size, weights, first, second, task=data.task, t=t, **options)
        for order in steps
    ]
    assert t.tolist() == [sum(-(-order.shape[1] // size) for order in steps)] * runs
    return weights, found


SGD = {"optimizer": "sgd", "momentum": doubles(0, 0.5, 0.9, 0.9)}
DECAY = {"decay": doubles(0, 0.1, 0.3, 0.1), "decay_biases": doubles(0, 0, 0.3, 0.1)}
CASES = [
    ("multiclass", "relu", "full", 0.5, {}),
    ("regression", "relu", "unit", 0.4, {**SGD, **DECAY}),
    ("binary", "leaky_relu", "point", 0.3, {"optimizer": "adamw", **DECAY}),
    ("binary", "elu", "full", 0.2, {"task_loss": False, "grad_clip": doubles(*[0.01] * 4)}),
    ("multiclass", "selu", "full", 0.5, {"clip": doubles(INFINITY, 0.6, 0.5, 0.1)}),
    ("multiclass", "silu", "unit_positive", 0.5, {}),
    ("regression", "tanh", "all_but_unit_negative", 0.7, DECAY | {"grad_clip": doubles(0.05, 1, INFINITY, 0.5)}),
    ("multiclass", "sigmoid", "positive", 0.5, {**SGD, "nesterov": True, "momentum": doubles(0.9, 0.5, 0.9, 0.9)}),
    ("regression", "identity", "full", 0.5, {}),
]


@pytest.mark.parametrize(("task", "activation", "mode", "rho", "options"), CASES)
def test_steps_are_those_of_pytorch(task: str, activation: str, mode: str, rho: float, options: dict[str, Any]) -> None:
    """Twelve steps, of 16, 16 and 6 rows in turn, each run with its own rate and strength."""
    data = problem(task, depth=1 if activation == "identity" else 5, width=WIDTHS[activation], activation=activation)
    lr, strength = doubles(0.003, 0.01, 0.02, 0.001), doubles(0.0, 0.01, 1.0, 10.0)
    batches = [*data.order.split(16, 1)] * 4
    margins = {"positive_margin": 1.5, "negative_margin": -0.5} if task == "binary" else {}
    common = {"lr": lr, "strength": strength, "constraints": constraints(mode, rho, **margins), **options}
    weights, found = trained(data, [batch.contiguous() for batch in batches], 16, **common)

    for run, model in enumerate(data.models):
        model.double()
        jumpstart = Jumpstart(model, hook_at="layer", mode=mode, sign_balance=rho, **margins)  # type: ignore[arg-type]
        optimizer = make_optimizer(model, run, common)
        for batch, measured in zip(batches, found, strict=True):
            assert measured is not None
            rows = batch[run]
            out = model(data.x[run, rows].double())
            loss, value = task_loss(task, out, data.y[run, rows]), jumpstart.loss
            value = value.clamp(max=float(options["clip"][run])) if "clip" in options else value
            expected = [loss.item() * len(rows), value.item() * len(rows)]
            assert measured.losses[run].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
            total = loss * float(options.get("task_loss", True)) + strength[run] * value
            optimizer.zero_grad()
            total.backward()
            if "grad_clip" in options:
                nn.utils.clip_grad_norm_(model.parameters(), float(options["grad_clip"][run]))
            optimizer.step()
    expected = parameters(data.models)
    for item in fields(weights):
        torch.testing.assert_close(getattr(weights, item.name), getattr(expected, item.name), rtol=1e-4, atol=2e-5)


def make_optimizer(model: nn.Module, run: int, options: dict[str, Any]) -> torch.optim.Optimizer:
    def of(name: str) -> float:
        return float(options[name][run]) if name in options else 0.0

    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": of("decay")},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": of("decay_biases")},
    ]
    if options.get("optimizer") == "sgd":
        return torch.optim.SGD(groups, of("lr"), of("momentum"), nesterov=options.get("nesterov", False))
    kind = torch.optim.AdamW if options.get("optimizer") == "adamw" else torch.optim.Adam
    return kind(groups, of("lr"))


def exact(data: Problem) -> Problem:
    """Weights and inputs that are small multiples of 1/4: no product or sum is rounded, and many values are equal."""
    generator = torch.Generator().manual_seed(5)
    for model in data.models:
        for parameter in model.parameters():
            with torch.no_grad():
                parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator) / 2)
    return replace(data, x=torch.randint(-4, 5, data.x.shape, generator=generator) / 4)


@pytest.mark.parametrize("rows", [16, 17, 38])
def test_status_and_ties_are_those_of_the_modules(rows: int) -> None:
    data = exact(problem("multiclass", activation="relu"))
    options = {"optimizer": "sgd", "constraints": constraints("full", 0.25), "strength": doubles(1, 2, 4, 8)}
    lr = 2.0**-10
    # A rate of zero, so that all batches see the same weights; then one step, whose gradient shows who won the ties.
    _, (measured,) = trained(data, [data.order], rows, **options, lr=doubles(0, 0, 0, 0))
    batch = data.order[:, :rows].contiguous()
    weights, _ = trained(data, [batch], rows, **options, lr=torch.full((4,), lr, dtype=torch.float64))
    assert measured is not None
    batches = data.order.split(rows, 1)
    for run, model in enumerate(data.models):
        jumpstart = Jumpstart(model, sign_balance=0.25)
        tracker = StatusTracker(jumpstart.preactivations)
        hits = 0.0
        for part in batches:
            out = model(data.x[run, part[run]])
            tracker.update()
            hits += counts("multiclass", out, data.y[run, part[run]]).item()
        expected = [value.item() for value in tracker.compute().values()]
        assert statuses(measured, run, data.order.shape[1], len(batches)) == pytest.approx(expected, rel=1e-6)
        assert measured.counts[run].item() == hits
        (
            task_loss("multiclass", model(data.x[run, batch[run]]), data.y[run, batch[run]])
            + options["strength"][run] * jumpstart.loss
        ).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad  # type: ignore[operator]
    stepped = parameters(data.models)
    for item in fields(weights):
        torch.testing.assert_close(getattr(weights, item.name), getattr(stepped, item.name), rtol=0, atol=1e-7)


def test_a_run_alone_is_the_run_among_others() -> None:
    data = problem("regression", runs=5, width=WIDTHS["tanh"], activation="tanh")
    strength = doubles(0, 0.1, 1, 0.3, 0.01)
    common = {"constraints": constraints("full", 0.5)}
    epochs = [data.order, data.order.flip(1)]
    together, found = trained(data, epochs, 16, strength=strength, **common, threads=3)
    for run in range(5):
        one = slice(run, run + 1)
        alone = Problem(data.task, data.models[one], data.x[one], data.y[one], data.order[one])
        weights, measured = trained(
            alone, [order[one].contiguous() for order in epochs], 16, strength=strength[one], **common
        )
        for item in fields(weights):
            ours = getattr(together, item.name)
            picked = ours[:, one] if item.name in ("wh", "bias") else ours[one]
            assert torch.equal(getattr(weights, item.name), picked)
        for mine, all_runs in zip(measured, found, strict=True):
            for item in fields(Measured):
                assert torch.equal(getattr(mine, item.name), getattr(all_runs, item.name)[one])


def test_an_epoch_is_its_steps_recorded_or_not() -> None:
    data = problem("multiclass")
    options = {"strength": doubles(0, 0.1, 1, 10), "constraints": constraints("full", 0.5)}
    whole, _ = trained(data, [data.order], 16, **options)
    unseen, nothing = trained(data, [data.order], 16, **options, record=False)
    steps, _ = trained(data, [batch.contiguous() for batch in data.order.split(16, 1)], 16, **options)
    assert nothing == [None]
    for item in fields(whole):
        assert torch.equal(getattr(whole, item.name), getattr(unseen, item.name))
        assert torch.equal(getattr(whole, item.name), getattr(steps, item.name))


@pytest.mark.parametrize(("activation", "rate"), [("relu", 1e30), ("tanh", 1e39), ("sigmoid", 1e39)])
def test_a_run_that_diverges_disturbs_no_other(activation: str, rate: float) -> None:
    """Bounded activations stay finite until the weights do not."""
    data = problem("multiclass", width=WIDTHS[activation], activation=activation)
    options = {"strength": doubles(0, 0.1, 1, 10), "constraints": constraints("full", 0.5)}
    sound, _ = trained(data, [data.order] * 3, 16, **options)
    lr = doubles(0.01, rate, 0.01, 0.01)
    weights, found = trained(data, [data.order] * 3, 16, **options, lr=lr)
    last = found[-1]
    assert last is not None
    assert not last.losses[1].isfinite().any()
    assert last.losses[[0, 2, 3]].isfinite().all()
    others = torch.tensor([0, 2, 3])
    for item in fields(weights):
        dimension = 1 if item.name in ("wh", "bias") else 0
        ours, theirs = (getattr(p, item.name).index_select(dimension, others) for p in (weights, sound))
        assert torch.equal(ours, theirs)


def test_nan_reaches_the_losses() -> None:
    """One weight of the first layer, in a unit whose largest value is another's."""
    data = problem("multiclass")
    with torch.no_grad():
        data.models[2].hidden["layer0"].weight[1, 0] = torch.nan  # type: ignore[index]
    _, (measured,) = trained(data, [data.order], 64, constraints=constraints("full", 0.5), strength=doubles(1, 1, 1, 1))
    assert measured is not None
    assert measured.losses.isnan().tolist() == [[run == 2] * 2 for run in range(4)]
    assert measured.status[2, :4].isnan().all() and measured.status[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("shared", [False, True])
def test_evaluation_in_pieces(task: str, shared: bool) -> None:
    data = problem(task)
    x, y = (data.x[:1], data.y[:1]) if shared else (data.x, data.y)
    found = native.load(4, "relu").evaluate(
        x,
        y,
        parameters(data.models),
        task=task,
        piece=17,
        constraints=constraints("full", 0.5),
        threads=2,  # type: ignore[arg-type]
    )
    for run, model in enumerate(data.models):
        own = 0 if shared else run
        jumpstart = Jumpstart(model)
        tracker = StatusTracker(jumpstart.preactivations)
        losses, hits = torch.zeros(2), torch.zeros(found.counts.shape[1], dtype=torch.float64)
        with torch.no_grad():
            for inputs, targets in zip(x[own].split(17), y[own].split(17), strict=True):
                out = model(inputs)
                tracker.update()
                losses += torch.stack([task_loss(task, out, targets), jumpstart.loss]) * len(inputs)
                hits += counts(task, out, targets)
        torch.testing.assert_close(found.losses[run].float(), losses, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.counts[run], hits, rtol=1e-5, atol=1e-5)
        expected = [value.item() for value in tracker.compute().values()]
        assert statuses(found, run, 41, 3) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("activation", native.ACTIVATIONS)
def test_activations_are_accurate(activation: str) -> None:
    """One row per run; the head passes on the first unit, so the absolute error to a target of 0 is |activation(x)|."""
    tiny = torch.logspace(-12, 2, 400)
    x = torch.cat([-tiny, torch.zeros(1), tiny])
    runs, width = len(x), WIDTHS[activation]
    first = torch.eye(width)[:1].expand(runs, 1, width).contiguous()
    networks = Parameters(
        first.transpose(1, 2).contiguous(),
        torch.empty(0, runs, width, width),
        torch.zeros(1, runs, width),
        first,
        torch.zeros(runs, 1),
    )
    found = native.load(width, activation).evaluate(
        x.reshape(runs, 1, 1), torch.zeros(1, 1, 1), networks, task="regression", piece=1
    )
    expected = ACTIVATIONS[activation][0]()(x.double()).abs()
    torch.testing.assert_close(found.counts[:, 1], expected, rtol=5e-7, atol=1e-36)


def test_tensors_that_would_be_misread_are_refused() -> None:
    data = problem("multiclass")
    kernel, weights = native.load(4, "relu"), parameters(data.models)
    good: dict[str, Any] = {"x": data.x, "y": data.y, "parameters": weights}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("x is", {"x": data.x.double()}),
        ("non-contiguous", {"x": data.x.transpose(1, 2).contiguous().transpose(1, 2)}),
        ("y is", {"y": data.y[:, 1:].contiguous()}),
        ("outside of 0 to 2", {"y": data.y + 1}),
        (r"parameters\.wh", {"parameters": replace(weights, wh=weights.wh[1:])}),
    ]
    for message, change in wrong:
        with pytest.raises(ValueError, match=message):
            kernel.evaluate(**good | change, task="multiclass", piece=8)
    for message, options in (
        ("order has values", {"steps": [data.order + 10]}),
        ("strength is", {"strength": torch.ones(4)}),
        ("clip is", {"clip": doubles(1, 2)}),
        ("'adagrad' is none of sgd", {"optimizer": "adagrad"}),
    ):
        with pytest.raises(ValueError, match=message):
            trained(data, **{"steps": [data.order], "size": 8} | options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs 2 moments"):
        moment, t = zeros(weights), torch.zeros(4, dtype=torch.int64)
        kernel.train(
            data.x,
            data.y,
            data.order,
            8,
            weights,
            moment,
            moment,
            task="multiclass",
            optimizer="adam",
            lr=doubles(1, 1, 1, 1),
            t=t,
        )


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    native._library(1, "identity")
    (built,) = (tmp_path / "regx" / "native").iterdir()
    before = built.stat().st_mtime_ns
    native._library(1, "identity")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "regx" / "native").iterdir()] == [before]


def test_obstacles_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho hello\necho 'native.cpp:1: error: no' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    for command, message in (
        (str(broken), "failed: native.cpp:1: error: no"),
        ("no-such-compiler -m32", "$CXX, no-such-compiler -m32, does not exist"),
    ):
        monkeypatch.setenv("CXX", command)
        with pytest.raises(RunFailed) as failure:
            native._library(1, "identity")
        assert message in failure.value.message and "\n" not in failure.value.message
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(RunFailed, match="there is no C\\+\\+ compiler"):
        native._library(1, "identity")
