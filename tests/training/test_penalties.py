"""Regularizers of every kind in a run: what they train, what is logged, and that a resumed run is the same run."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from regx.errors import UserError
from regx.models import create as create_model
from regx.regularizers import L0, REGISTRY, create
from regx.training.build import Experiment, build
from regx.training.ema import Ema
from regx.training.experiment import run
from regx.training.experiments import RectangularConfig
from regx.training.folder import load_checkpoint, save_checkpoint
from tests.training.silent import Silent

# One text per regularizer that acts strongly enough to be seen within a few steps.
SPECS = {
    "activation_l1": "activation_l1=0.1",
    "activation_l2": "activation_l2=0.1",
    "elastic_net": "elastic_net(prox=true)=0.05",
    "group_lasso": "group_lasso(prox=true)=0.05",
    "group_variance": "group_variance=1e-3",
    "hierarchical": "hierarchical=1e-3",
    "jumpstart": "jumpstart(tie_breaking=random)=0.1",
    "l0": "l0(noise=sample)=0.5",
    "l0_approx": "l0_approx=1e-5",
    "l1": "l1(schedule=linear, warmup=2)=0.01",
    "l2": "l2(half=true)=0.1",
    "orthogonal": "orthogonal=0.01",
    "prune": "prune(schedule=agp, end=3)=0.5",
    "sparse_group_lasso": "sparse_group_lasso(groups=rows, prox=true)=0.05",
    "threshold": "threshold(start=2, end=3)=0.1",
}


def config(*specs: str, **options: Any) -> RectangularConfig:
    small: dict[str, Any] = {"depth": 3, "width": 8, "epochs": 5, "batch_size": 32, "lr": 0.01, "plots": False}
    if options.get("dataset", "moons") == "moons":
        small["n_samples"] = 120
    return RectangularConfig(regularizer=list(specs), **small | options)


def fit(built: Experiment, stop_after: int | None = None) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    trainer = built.trainer
    trainer.fit(rows.append, lambda: None, lambda: stop_after is not None and trainer.epoch >= stop_after)
    return rows


def fit_in_two(c: RectangularConfig, stop_after: int, folder: Path) -> tuple[Experiment, list[dict[str, float]]]:
    """Trains, is stopped, and goes on from its checkpoint as another process would; all rows."""
    half, rest = build(c), build(c)
    first = fit(half, stop_after=stop_after)
    save_checkpoint(folder / "last.pt", half.trainer.state_dict())
    rest.trainer.load_state_dict(load_checkpoint(folder / "last.pt", c.hash()))
    return rest, first + fit(rest)


def weights(built: Experiment) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in built.model.parameters()])


def test_there_is_a_text_for_every_regularizer() -> None:
    assert set(SPECS) == set(REGISTRY.rows)


@pytest.mark.parametrize("dataset", ["moons", "digits_image"])
@pytest.mark.parametrize("name", SPECS)
def test_every_regularizer_trains_dense_and_convolutional_nets(name: str, dataset: str) -> None:
    options: dict[str, Any] = {"dataset": dataset}
    if dataset == "digits_image":  # whose batch normalisation leaves Jumpstart nothing to do
        options |= {"subset": 200, "batchnorm": name != "jumpstart"}
    spec = SPECS[name]
    if name == "sparse_group_lasso" and dataset == "digits_image":
        spec = spec.replace("rows", "kernels")
    plain, regularised = build(config(lambda_=0.0, **options)), build(config(spec, **options))
    fit(plain)
    row = fit(regularised)[-1]
    assert not torch.equal(weights(plain), weights(regularised))
    assert weights(regularised).isfinite().all()
    assert ("sparsity/elements" in row) == (REGISTRY[name].facts["zeros"] != "none")


@pytest.mark.parametrize("name", SPECS)
def test_strength_zero_leaves_no_trace(name: str) -> None:
    plain, unused = build(config(lambda_=0.0)), build(config(SPECS[name].rpartition("=")[0].partition("(")[0] + "=0"))
    fit(plain)
    fit(unused)
    assert torch.equal(weights(plain), weights(unused))


@pytest.mark.parametrize("name", SPECS)
def test_a_resumed_run_is_the_uninterrupted_run(name: str, tmp_path: Path) -> None:
    c = config(SPECS[name], "jumpstart=0.01", ema=0.9)
    whole = build(c)
    rows = fit(whole)
    rest, resumed = fit_in_two(c, 2, tmp_path)
    assert resumed == rows
    assert torch.equal(weights(rest), weights(whole))
    averages = [built.trainer.stepper.state_dict()["ema"]["average"] for built in (rest, whole)]
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))


def test_composition_is_the_sum_of_its_parts() -> None:
    """Two penalties of weights, one of them scheduled, beside Jumpstart: the same as a loop written out."""
    c = config("l1(schedule=linear)=0.01", "group_lasso(prox=true)=0.02", "jumpstart=0.1", optimizer="sgd", epochs=3)
    built = build(c)
    rows = fit(built)
    assert [row["lambda/l1_loss"] for row in rows] == [0.0, 0.005, 0.01]

    torch.manual_seed(c.seed)
    model = create_model("rectangular", input_shape=(2,), output_size=1, **c.model_options())
    optimizer = torch.optim.SGD(model.parameters(), c.lr)
    jumpstart = create("jumpstart", model)
    x, y = built.data.train.x, built.data.train.y
    order = torch.Generator().manual_seed(c.seed)
    for strength in (0.0, 0.005, 0.01):
        for batch in torch.randperm(len(x), generator=order).split(32):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch])[:, 0], y[batch].float())
            matrices = [p for p in model.parameters() if p.ndim == 2]
            loss = loss + 0.1 * jumpstart.loss + strength * sum(p.abs().sum() for p in matrices)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for p in matrices:
                    p *= (1 - c.lr * 0.02 / p.norm(dim=1, keepdim=True)).clamp(min=0)
    torch.testing.assert_close(weights(built), torch.cat([p.detach().flatten() for p in model.parameters()]))


def test_penalties_are_logged_apart_and_add_up() -> None:
    row = fit(build(config("l1=0.01", "group_lasso(prox=true)=0.02", "jumpstart=0.1", epochs=1)))[0]
    for stage in ("train", "val"):
        parts = 0.01 * row[f"{stage}/l1_loss"] + 0.02 * row[f"{stage}/group_lasso_loss"] + 0.1 * row[f"{stage}/JR_loss"]
        assert row[f"{stage}/total_loss"] == pytest.approx(row[f"{stage}/loss"] + parts)
    assert row["train/l1_loss"] == row["val/l1_loss"], "weights at the end of the epoch"


def test_windows_masks_and_agp_over_the_epochs() -> None:
    rows = fit(build(config("prune(schedule=agp, other_end=0.1, end=4)=0.5", epochs=6)))
    wanted = [0.5 - 0.4 * (1 - k / 3) ** 3 for k in range(4)]
    assert [row["lambda"] for row in rows] == pytest.approx([*wanted, 0, 0])
    shares = [row["sparsity/elements"] for row in rows]
    assert shares == pytest.approx([*wanted, 0.5, 0.5], abs=0.02), "the last mask is kept"


@pytest.mark.parametrize("spec", ["l1(prox=true, target_sparsity=0.7)=1e-4", "group_lasso(prox=true)=1e-4"])
def test_target_sparsity_is_reached(spec: str) -> None:
    c = config(
        spec,
        dataset="digits",
        width=32,
        epochs=60,
        batch_size=128,
        stop_at=None,
        log_status=False,
        log_sparsity="no",
        target_sparsity=0.5,
    )
    built = build(c)
    row = fit(built)[-1]
    (penalty,) = built.trainer.penalties
    assert penalty.controller is not None
    assert float(penalty.regularizer.zero_share() or 0.0) == pytest.approx(penalty.schedule.target_sparsity, abs=0.08)
    assert row["lambda"] != 1e-4 and row["val/acc"] > 0.8


def test_clipping_cuts_the_gradient() -> None:
    free, plain = build(config("l1(clip=1e-6)=1")), build(config(lambda_=0.0))
    fit(free)
    fit(plain)
    torch.testing.assert_close(weights(free), weights(plain))
    with pytest.raises(UserError, match="lambda_clip"):
        build(config("l1(prox=true, clip=1)=1"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("l1(target_sparsity=0.5)=0.1", "target_sparsity.*l1 makes exact zeros with --optimize prox"),
        ("group_lasso(groups=filters)=1", "'filters'.*fits no weight; their shapes are 8x2"),
        ("group_lasso(groups=blocks(3,3))=1", r"blocks of 3 x 3 do not divide hidden.layer0.weight \(8x2\)"),
        ("l1(include=hiden.*)=1", "include: 'hiden.*' matches no weight"),
        ("prune=1.5", "1.5 is no share of groups"),
        ("l0=0.1|l0(include=hidden.*1)=0.2", r"'l0\(include=hidden.\*1\)=0.2': 'hidden.layer1' has gates already"),
        ("prune(schedule=linear, other_end=1.5)=0.5", "1.5 is no share of groups"),
    ],
)
def test_refuses_what_does_not_fit_the_model(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        fit(build(config(*spec.split("|"))))
    assert "\n" not in str(caught.value)


def test_best_weights_are_those_of_the_average_and_gates_are_folded(tmp_path: Path) -> None:
    c = config(
        "l0=2", dataset="digits", width=16, epochs=12, ema=0.99, lr=0.03, run_dir=str(tmp_path), wandb="disabled"
    )
    result = run(c, Silent(), argv=["regx"])
    assert result["status"] == "finished"
    folder = Path(result["run_dir"])
    plain = create_model("rectangular", input_shape=(64,), output_size=10, **c.model_options())
    plain.load_state_dict(torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["model"])
    data = build(c).data
    with torch.no_grad():
        correct = (plain.eval()(data.val.x).argmax(1) == data.val.y).double().mean()
    assert float(correct) == pytest.approx(result["best"]["val/acc"]), "the folded model alone scores the same"
    rows = list(csv.DictReader((folder / "coverage.csv").read_text().splitlines()))
    assert {row["penalty"] for row in rows} == {"l0"} and rows[0]["unit"] == "gates"
    assert (folder / "weights.csv").is_file()


def test_gates_are_not_decayed() -> None:
    built = build(config("l0=0.1", weight_decay=0.5))
    gates = built.trainer.penalties[0].regularizer
    assert isinstance(gates, L0)
    (group,) = [
        g
        for g in built.trainer.stepper.optimizer.param_groups
        if any(p is q for p in gates.parameters() for q in g["params"])
    ]
    assert group["weight_decay"] == 0.0


def test_ema_is_the_weighted_mean() -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    ema = Ema([p], 0.9)
    with ema.in_place():
        assert torch.equal(p, torch.zeros(2).double()), "nothing before the first step"
    history = [torch.tensor([1.0, -1.0]), torch.tensor([4.0, 2.0]), torch.tensor([0.5, 0.25])]
    for value in history:
        with torch.no_grad():
            p.copy_(value)
        ema.update()
    factors = [0.9**k for k in (2, 1, 0)]
    mean = sum(f * v.double() for f, v in zip(factors, history, strict=True)) / sum(factors)
    with ema.in_place():
        torch.testing.assert_close(p.detach(), mean)
    torch.testing.assert_close(p.detach(), history[-1].double())
    with torch.no_grad():
        p[0] = 0.0
    with ema.in_place():
        assert p[0] == 0 and p[1] != 0, "a zero stays one"


def test_zeros_survive_the_average() -> None:
    plain = fit(build(config("l1(prox=true)=0.02", epochs=10)))[-1]
    averaged = fit(build(config("l1(prox=true)=0.02", epochs=10, ema=0.99)))[-1]
    assert averaged["sparsity/elements"] == plain["sparsity/elements"] > 0.1


def test_a_controller_resumes(tmp_path: Path) -> None:
    c = config("l1(prox=true, target_sparsity=0.6)=1e-3", epochs=12, optimizer="sgd", lr=0.1)
    whole = build(c)
    rows = fit(whole)
    assert len({row["lambda"] for row in rows}) > 6
    assert fit_in_two(c, 5, tmp_path)[1] == rows


@pytest.mark.parametrize(
    ("spec", "settles"),
    [
        ("l1=0.1", 1),
        ("l1=0", 1),
        ("l1(warmup=4)=0.1", 4),
        ("l1(schedule=linear)=0.1", 12),
        ("prune(schedule=agp, start=2, cycle_length=5)=0.5", 7),
        ("l1(schedule=cosine)=0.1", 1),
        ("l0(start=8)=5", 8),
        ("l1(prox=true, target_sparsity=0.5)=0.01", 11),
    ],
)
def test_the_best_epoch_is_one_with_the_whole_penalty(spec: str, settles: int) -> None:
    built = build(config(spec, dataset="digits", subset=300, epochs=12, stop_at=0.0))
    rows = fit(built)
    trainer = built.trainer
    assert trainer.settles == settles
    assert trainer.best.epoch == settles == len(rows), "any accuracy would do to end, but not before"


def test_the_best_weights_score_what_was_logged() -> None:
    """Also where the strength of that epoch, of which gates remember whether they are awake, is not the last one."""
    for spec in ("l0(start=4)=20", "l1(schedule=cosine)=0.05"):
        built = build(config(spec, dataset="digits", epochs=6, batch_size=64))
        fit(built)
        trainer = built.trainer
        trainer.restore_best()
        found = trainer.evaluate("val", built.data.val)
        assert float(found["val/acc"]) == pytest.approx(trainer.best.row["val/acc"])
        assert float(found["val/total_loss"]) == pytest.approx(trainer.best.row["val/total_loss"], rel=1e-5)


def test_sparsity_is_that_of_the_network_with_its_gates() -> None:
    built = build(config("l0=20", dataset="digits", epochs=12, batch_size=32, lr=0.05))
    row = fit(built)[-1]
    gates = built.trainer.penalties[0].regularizer
    weights_before = weights(built).clone()
    assert 0 < float(gates.zero_share() or 0) == row["sparsity/gates"]
    assert not isinstance(gates, L0) or not gates.folded
    assert torch.equal(weights(built), weights_before)
    gates.fold()
    rows = torch.cat(
        [p for name, p in built.model.named_parameters() if name.endswith("weight") and "hidden" in name], 1
    )
    assert row["sparsity/units"] > 0 and (rows == 0).any()
    assert row["sparsity/parameters_left"] < row["sparsity/parameters"]


def test_clipping_the_gradient_comes_after_all_penalties_and_covers_gates() -> None:
    clipped = build(config("l1=5", "l0=100", optimizer="sgd", lr=1.0, grad_clip=1e-9, epochs=1))
    gates = next(iter(clipped.trainer.penalties[1].regularizer.parameters()))
    before, open_before = weights(clipped).clone(), gates.detach().clone()
    fit(clipped)
    assert float((weights(clipped) - before).abs().max()) < 1e-7
    assert float((gates.detach() - open_before).abs().max()) < 1e-7


def test_the_average_is_of_the_weights_after_the_proximal_step() -> None:
    built = build(config("l1(prox=true)=100", epochs=1, optimizer="sgd", ema=0.5))
    fit(built)
    assert built.trainer.stepper.ema is not None
    names = [name for name, _ in built.model.named_parameters()]
    zeros = [a for name, a in zip(names, built.trainer.stepper.ema.average, strict=True) if name.endswith("weight")]
    assert all((a == 0).all() for a in zeros), "all weights were zero after every step"


def test_l1_and_group_lasso_are_the_sparse_group_lasso_in_any_order() -> None:
    together = build(config("sparse_group_lasso(l1_ratio=0.4, prox=true)=0.05"))
    fit(together)
    for order in (1, -1):
        apart = build(config(*["l1(prox=true)=0.02", "group_lasso(prox=true)=0.03"][::order]))
        fit(apart)
        torch.testing.assert_close(weights(apart), weights(together))
    assert (weights(together) == 0).any()


def test_a_missed_target_is_said() -> None:
    built = build(config("l1(prox=true, target_sparsity=0.9)=1e-8", "jumpstart=0.1", epochs=2))
    fit(built)
    (text,) = built.trainer.missed_targets()
    assert text.startswith("l1: ") and "not the wanted 90.0%" in text
    hit = build(config("l1(prox=true, target_sparsity=0.97)=1e-8", epochs=2))
    with torch.no_grad():
        for p in hit.model.parameters():
            p.zero_()
    assert hit.trainer.missed_targets() == []


def test_blocks_are_measured_on_request() -> None:
    options = {"width": 8, "dataset": "digits", "epochs": 2}
    row = fit(build(config("group_lasso(groups=blocks(2,4), prox=true)=0.02", log_blocks="blocks(2,4)", **options)))[-1]
    assert row["sparsity/blocks"] == row["sparsity/blocks(2,4)"] > 0
    assert row["sparsity/blocks_1e-2"] >= row["sparsity/blocks"]
    for blocks, message in (("blocks(3,3)", "do not divide"), ("rows", "no size of blocks"), ("bloks", "did you mean")):
        with pytest.raises(UserError, match=message):
            build(config("l1=0.1", log_blocks=blocks, **options))
    with pytest.raises(UserError, match="log_blocks: needs sparsity"):
        config("l1=0.1", log_blocks="blocks(2,2)", log_sparsity="no")
