"""Networks of any kind as one program: R runs together are the same R runs alone, by autograd run by run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from regx.data import create
from regx.data.module import Split
from regx.errors import RunFailed, UserError
from regx.models import create as create_model
from regx.training import build, experiment
from regx.training.experiments import from_dict
from regx.training.folder import RunFolder
from regx.training.vectorised import extremes, grouping, runs
from regx.training.vectorised.group import Group
from regx.training.vectorised.modules import Modules
from regx.training.vectorised.rows import Pictures, Rows, rows_of
from regx.training.vectorised.runs import Wanted, _close_epoch, run_together
from regx.training.vectorised.storage import Layout
from tests.training.silent import Silent
from tests.training.vectorised.double import built

IMAGES: dict[str, Any] = {
    "experiment": "resnet",
    "dataset": "fake",
    "n_samples": 60,
    "image_size": 8,
    "subset": 36,
    "batch_size": 14,
    "epochs": 2,
    "stop_at": None,
    "log_speed": False,
}
CONV = {"experiment": "rectangular", "depth": 4, "width": 3}
NUMBERS: list[dict[str, Any]] = [
    {"seed": 0, "lr": 0.01, "lambda": 0.05},
    {"seed": 1, "lr": 0.003, "lambda": 0.3},
    {"seed": 2, "lr": 0.02, "lambda": 0.0},
]
PROX = {"regularizer": ["jumpstart", "l1(prox=true)=1e-3"]}
CASES: dict[str, dict[str, Any]] = {
    "lenet_300_100": {"model": "mlp", **PROX},
    "lenet5": {"model": "lenet5", "image_size": 16},
    "conv": CONV,
    "conv, flattened": {**CONV, "head": "flatten", "activation": "gelu", "init": "kaiming"},
    "conv, batchnorm, skips, pooling": {**CONV, "batchnorm": True, "skip_connections": 2, "n_maxpool": 1, **PROX},
    "conv, hooks at layers": {**CONV, "hook_at": "layer", "skip_last": False, "batchnorm": True},
    "conv, hooks at norms": {**CONV, "hook_at": "layer", "skip_batchnorm": False, "batchnorm": True},
    "conv, averages": {**CONV, "batchnorm": True, "ema": 0.9, "grad_clip": 0.1},
    "conv, norm": {**CONV, "aggr": "norm", "mode": "all_but_unit_positive"},
    "conv, no status": {**CONV, "log_status": False, "lambda": 0.05},
    "conv, no task loss": {**CONV, "task_loss": False, "lambda": 0.1},
    "conv, group lasso, sgd": {
        **CONV,
        "regularizer": ["group_lasso(groups=units, prox=true)=1e-2", "jumpstart"],
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.01,
        "lr_schedule": "constant",
    },
    "resnet": {"depth": 20, "width_multiplier": 1.0, **PROX},
    "resnet, plain": {"depth": 20, "width_multiplier": 0.5, "batchnorm": False, "skip_connections": False},
    "resnet, dense": {"depth": 20, "unit_type": "dense", "width_multiplier": 0.5, "tie_breaking": "single"},
    "resnet, hooks at layers": {"depth": 20, "width_multiplier": 0.5, "hook_at": "layer"},
    "wide_resnet": {"model": "wide_resnet(depth=10,width=1)"},
    "moons": {
        "model": "mlp(hidden=9)",
        "dataset": "moons",
        "image_size": None,
        "subset": None,
        "tie_breaking": "average",
    },
}


class Sessions:
    """Stands in for a session."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def row(self, row: dict[str, float]) -> None:
        """Takes a row."""
        self.rows.append(row)


def configured(case: dict[str, Any]) -> list[Any]:
    values = {key: value for key, value in (IMAGES | case).items() if value is not None or key == "stop_at"}
    fixed = {"lambda": case["lambda"]} if "lambda" in case else {}
    return [from_dict(values | numbers | fixed) for numbers in NUMBERS]


def trained(group: Group, epochs: int) -> list[list[dict[str, float]]]:
    """The rows of every run."""
    sessions = {member.number: Sessions() for member in group.members}
    for _ in range(epochs):
        sums = group.train_epoch()
        assert sums is not None
        assert not _close_epoch(group, sums, sessions)  # type: ignore[arg-type]
    group.dismiss(list(sessions))
    return [session.rows for session in sessions.values()]


@pytest.mark.parametrize("name", CASES)
def test_runs_together_are_the_runs_alone(name: str) -> None:
    configs = configured(CASES[name])
    assert [grouping.obstacle(config) for config in configs] == [None] * 3
    assert len({grouping.likeness(config) for config in configs}) == 1
    found = [built(config) for config in configs]
    group = Group([made for made, _ in found], states=[state for _, state in found])
    assert isinstance(group.network, Modules)
    tables = trained(group, configs[0].epochs)
    for config, (mine, _), rows in zip(configs, found, tables, strict=True):
        other, _ = built(config)
        expected: list[dict[str, float]] = []
        other.trainer.fit(expected.append, lambda: None, lambda: False)
        for row, wanted in zip(rows, expected, strict=True):
            assert list(row) == list(wanted)
            for key, value in wanted.items():
                # Where trained alone, means are taken in single precision.
                assert row[key] == pytest.approx(value, rel=2e-6, abs=1e-5, nan_ok=True), key
        weights, best = mine.model.state_dict(), mine.trainer.best
        assert list(weights) == list(other.model.state_dict())
        for key, value in other.model.state_dict().items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-9, msg=key)
        assert best.epoch == other.trainer.best.epoch
        for key, value in other.trainer.best.weights.items():
            torch.testing.assert_close(best.weights[key], value, rtol=0, atol=1e-9, msg=key)


def test_dense_rectangular_networks_are_the_same_by_both_ways() -> None:
    """The code by hand is the reference of the one for all modules, and the other way round."""
    config = {"dataset": "moons", "n_samples": 60, "image_size": None, "subset": None, "batchnorm": True}
    more = {"skip_connections": 2, "tie_breaking": "average", "hook_at": "layer", "skip_last": False}
    configs = configured(CONV | config | more)
    tables, weights = [], []
    for generic in (False, True):
        found = [built(config)[0] for config in configs]
        group = Group(found, _generic=generic)
        tables.append(trained(group, 2))
        weights.append([made.model.state_dict() for made in found])
    for one, other in zip(*tables, strict=True):
        assert one[-1] == pytest.approx(other[-1], rel=1e-8, abs=1e-9)
    for one, other in zip(*weights, strict=True):
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=1e-10, msg=key)


def test_spatial_extremes_are_those_of_the_whole_image() -> None:
    """Against the gradient that autograd gives of the loss of one run, from the images themselves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 1)).double()
    layout, nothing = Layout.of_parameters(model, 2), Layout.of_buffers(model, 2)
    flat = torch.randn(layout.size, dtype=torch.float64)
    network = Modules(model, layout, flat, nothing, flat.new_zeros(0), hooked=["1"], at_layers=False)
    x = torch.randn(2, 5, 2, 6, 6, dtype=torch.float64)
    done = network.forward(x, train=True)
    assert (network.layers, network.positions, network.widths) == (("1",), ((0,),), (3,))
    terms = extremes.Terms((0.5, 0.4, 0.3, 0.2), (9.0, 9.0), "balanced", False)
    (taps,) = network.taps(done)
    found = extremes.find(taps, places=True)
    values, (slopes,) = extremes.loss([found], terms)
    into = network.slopes(done, done.output)
    extremes.add_gradient(into[0], taps, found, slopes, torch.tensor([1.0, 2.0]), terms)
    network.backward(done, torch.zeros_like(done.output))
    for run in range(2):
        parameters = {name: part.clone().requires_grad_() for name, part in layout.parts(flat, run).items()}
        z = nn.functional.conv2d(x[run], parameters["0.weight"], parameters["0.bias"])
        units, points = z.transpose(0, 1).flatten(1), z.flatten(1)
        loss = (0.5 * (9 - units.amax(1)).relu() + 0.4 * (9 + units.amin(1)).relu()).mean()
        loss = loss + (0.3 * (9 - points.amax(1)).relu() + 0.2 * (9 + points.amin(1)).relu()).mean()
        torch.testing.assert_close(values[run], loss.detach())
        ((run + 1) * loss).backward()
        mine = layout.parts(network.gradients, run)
        for name in ("0.weight", "0.bias"):
            torch.testing.assert_close(mine[name], parameters[name].grad)


def test_opposite_pulls_on_a_tie_cancel_exactly() -> None:
    """All pre-activations are 0, so the largest and the smallest is the same pixel."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1))
    layout, nothing = Layout.of_parameters(model, 2), Layout.of_buffers(model, 2)
    flat = torch.zeros(layout.size)
    network = Modules(model, layout, flat, nothing, flat[:0], hooked=["1"], at_layers=False)
    for balance in (0.5, 0.6):
        done = network.forward(torch.randn(2, 5, 2, 6, 6), train=True)
        terms = extremes.Terms((balance, 1 - balance) * 2, (1.0, 1.0), "balanced", False)  # type: ignore[arg-type]
        (taps,) = network.taps(done)
        found = extremes.find(taps, places=True)
        into = network.slopes(done, done.output)
        _, (slopes,) = extremes.loss([found], terms)
        extremes.add_gradient(into[0], taps, found, slopes, torch.ones(2), terms)
        network.backward(done, torch.zeros_like(done.output))
        assert bool(network.gradients.any()) == (balance != 0.5)


def test_in_single_precision_a_run_among_others_is_nearly_the_run_alone() -> None:
    """Not bitwise: sums of grouped convolutions have another order."""
    values = IMAGES | CONV | {"batchnorm": True, "lambda": 0.1, "augment": ["flip", "crop(padding=1)"], "epochs": 1}
    configs = [from_dict(values | {"seed": seed, "data_seed": data}) for seed, data in ((0, 5), (1, 5), (2, 6))]
    among = [build.build(config) for config in configs]
    group = Group(among)
    group.train_epoch()
    group.dismiss([0, 1, 2])
    for config, made in zip(configs, among, strict=True):
        alone = build.build(config)
        program = Group([alone])
        program.train_epoch()
        program.dismiss([0])
        by_torch = build.build(config)
        by_torch.trainer.begin_epoch()
        list(by_torch.trainer._train_steps())
        for one, other, third in zip(
            made.model.parameters(), alone.model.parameters(), by_torch.model.parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
            torch.testing.assert_close(other, third, rtol=0, atol=1e-6)


def test_augmented_images_of_a_run_are_those_it_sees_alone() -> None:
    """Bitwise, whether runs share a dataset or have their own, in the same epoch or not."""
    values = IMAGES | {"augment": ["flip", "crop(padding=2)", "cutout(size=3)"]}
    names = ("seed", "n_samples", "image_size", "subset", "augment")
    for seeds in ((3, 3, 3), (3, 4, 5)):
        splits = [create("fake", **{name: (values | {"seed": seed})[name] for name in names}).train for seed in seeds]
        rows = rows_of(splits)
        assert isinstance(rows, Pictures)
        order = torch.stack([torch.randperm(len(rows)) for _ in seeds])
        plan = [order[:, :7], order[:, 7:12]]
        for epochs in ((2, 2, 2), (1, 2, 3)):
            for batch, (x, y) in zip(plan, rows.batches(plan, epochs), strict=True):
                for run, (split, epoch) in enumerate(zip(splits, epochs, strict=True)):
                    alone = next(split.batches([batch[run]], epoch))
                    assert torch.equal(x[run], alone.x)
                    assert torch.equal(y[run], alone.y)
        x, y = rows.cut(2, 9, 3)
        assert y.shape == (3, 7) and x.shape[0] == len(set(seeds))
        assert torch.equal(x[-1], next(splits[-1].batches([slice(2, 9)])).x)
        rows.keep(torch.tensor([2]))
        assert torch.equal(rows.cut(2, 9, 1)[0][0], x[-1])


def test_streamed_images_are_refused() -> None:
    split = Rows([Split(torch.zeros(3, 2), torch.zeros(3))])
    assert len(split) == 3

    class Streamed(Split):
        streamed = True

    with pytest.raises(RunFailed, match="--engine single"):
        rows_of([Streamed(torch.zeros(3), torch.zeros(3))])


def test_run_folders_of_images(tmp_path: Any) -> None:
    """Ended, resumed in the middle of an epoch by the usual loop, with all files and the keys of a single run."""
    values = IMAGES | CONV | {"batchnorm": True, "lambda": 0.1, "plots": False, "wandb": "disabled"}

    def wanted(folder: str, engine: str, seed: int) -> Wanted:
        config = from_dict(values | {"seed": seed, "run_dir": str(tmp_path / folder), "engine": engine})
        return Wanted(config, RunFolder(tmp_path / folder / config.run_name()), Silent())

    found: dict[int, Any] = {}
    items = [wanted("together", "vectorised", seed) for seed in range(3)]
    run_together(items, argv=[], ended=lambda number, result: found.update({number: result}))
    for number in range(3):
        alone = experiment.run(wanted("alone", "single", number).config, Silent(), argv=[])
        assert found[number]["status"] == alone["status"] == "finished"
        assert found[number]["last"].keys() == alone["last"].keys()
        assert "val/top5_acc" in alone["last"]
        for key, value in alone["last"].items():
            assert found[number]["last"][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key

    class Killer(Silent):
        def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
            if epoch == 2 and step == 2:
                raise KeyboardInterrupt

    cut = wanted("cut", "vectorised", 1)
    cut.config = dataclasses.replace(cut.config, checkpoint_every=1e-9)
    cut.observer = Killer()
    with pytest.raises(KeyboardInterrupt):
        run_together([cut], argv=[], ended=lambda number, result: None)
    assert torch.load(cut.folder.last, weights_only=True)["step"] == 1
    single = wanted("cut", "single", 1)
    result = experiment.run(single.config, Silent(), argv=[], folder=cut.folder)
    for key, value in found[1]["last"].items():
        assert result["last"][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key


def _obstacle(**options: Any) -> str | None:
    values = IMAGES | options
    return grouping.obstacle(from_dict({key: value for key, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, None),
        ({"log_speed": True}, "--log-speed"),
        ({"dropout": 0.1}, "dropout in resnet"),
        ({"dropout": 0.0}, None),
        (CONV | {"dropout": 0.1}, "dropout in rectangular"),
        ({"mixup": 0.2}, "--mixup"),
        ({"cutmix": 1.0}, "--cutmix"),
        ({"accumulate": 2}, "--accumulate"),
        ({"compile": True}, "--compile"),
        ({"amp": "bf16"}, "--amp"),
        ({"devices": "cpu:2"}, "--devices"),
        ({"model": "torchvision:mobilenet_v3_small"}, "another library"),
        ({"regularizer": ["l0=1e-3"]}, "regularizer l0"),
        ({"regularizer": ["activation_l1=1e-3"]}, "regularizer activation_l1"),
        ({"regularizer": ["jumpstart(tie_breaking=average)=0.1"]}, "--tie-breaking average"),
        ({"regularizer": ["jumpstart(unit_dim=-1)=0.1"]}, "unit_dim"),
        ({"dataset": "imagenet", "image_size": None, "n_samples": None}, "--stream no"),
        ({"dataset": "imagenet", "image_size": None, "n_samples": None, "stream": "no"}, None),
        ({"dataset": "imagenette", "image_size": 64, "n_samples": None, "corrupt": "skip"}, "--corrupt"),
        ({"dataset": "cifar10", "image_size": None, "n_samples": None}, None),
    ],
)
def test_what_cannot_be_a_program_is_told(options: dict[str, Any], text: str | None) -> None:
    found = _obstacle(**options)
    assert found is None if text is None else found is not None and text in found


def test_engines_of_other_models() -> None:
    """An explicit engine is taken; auto only where it pays."""

    def engine(**options: Any) -> str:
        return runs.engine_of(from_dict(IMAGES | options))

    assert engine(engine="vectorised") == "vectorised"
    assert engine(engine="auto") == "single"
    assert engine(**CONV, engine="auto") == "vectorised"
    assert engine(**CONV | {"width": 64}, engine="auto") == "single"
    assert engine(**CONV | {"image_size": 28}, engine="auto") == "single"
    for options in ({}, CONV):
        with pytest.raises(UserError, match="native cannot train this run"):
            engine(**options, engine="native")


def test_a_rectangular_network_of_the_other_experiment(tmp_path: Path) -> None:
    """On a table: its configuration has no width and depth of its own."""
    options = {"experiment": "resnet", "model": "rectangular(depth=3, width=4)", "dataset": "iris", "epochs": 3}
    options |= {"log_speed": False, "plots": False, "wandb": "disabled", "batch_size": 32}
    rows = []
    for engine in ("single", "vectorised"):
        config = from_dict(options | {"engine": engine, "run_dir": str(tmp_path / engine)})
        rows.append(experiment.run(config, Silent(), argv=[])["last"])
    assert rows[0].keys() == rows[1].keys()
    for key, value in rows[0].items():
        assert rows[1][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_models_are_alike_by_their_options_however_they_are_given() -> None:
    def likeness(**options: Any) -> str:
        return grouping.likeness(from_dict(IMAGES | options))

    assert likeness(depth=50) == likeness() == likeness(model="resnet(depth=50)", lr=0.1, seed=7)
    assert likeness() != likeness(depth=18)
    assert likeness() != likeness(model="lenet5")
    assert likeness() != likeness(batchnorm=False)


def test_programs_of_images_are_small() -> None:
    def most(**options: Any) -> int:
        return grouping.most_runs(from_dict(IMAGES | options))

    assert most(**CONV) == grouping.MOST_MODULES
    assert most(n_samples=100_000, image_size=224, batch_size=1024) == 1


def test_a_module_has_a_part_for_everything_it_learns() -> None:
    model = create_model("resnet", input_shape=(3, 8, 8), output_size=4, depth=20)
    parameters, buffers = Layout.of_parameters(model, 3), Layout.of_buffers(model, 3)
    floating = {name for name, x in model.state_dict().items() if x.is_floating_point()}
    assert set(parameters.places) | set(buffers.places) == floating
    flat = torch.arange(float(parameters.size))
    parts = [parameters.parts(flat, run) for run in range(3)]
    numbers = torch.cat([part.flatten() for run in parts for part in run.values()])
    assert torch.equal(numbers.sort().values, flat[: parameters.used])
    device = flat.device
    decayed = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert int(parameters.is_weight(device).sum()) == 3 * decayed
    assert int(parameters.is_trained(device).sum()) == parameters.used
    assert parameters.owner(device)[: parameters.used].bincount().tolist() == [parameters.used // 3] * 3
