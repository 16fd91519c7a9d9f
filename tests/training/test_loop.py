"""The loop: what it minimises, what it logs, and that a resumed run is the uninterrupted run."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from regx.data.module import DataModule, Split
from regx.errors import RunFailed, UserError
from regx.models import create
from regx.regularizers import Jumpstart
from regx.training.build import Experiment, build
from regx.training.experiments import RectangularConfig
from regx.training.folder import load_checkpoint, save_checkpoint
from regx.training.objective import Objective, chance
from regx.training.step import make_optimizer


def config(**options: Any) -> RectangularConfig:
    small: dict[str, Any] = {"depth": 4, "width": 6, "epochs": 6, "batch_size": 32, "lr": 0.01, "lambda_": 0.1}
    if "dataset" not in options:
        small["n_samples"] = 120
    return RectangularConfig(**small | options)


def fit(built: Experiment, stop_after: int | None = None) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    trainer = built.trainer
    trainer.fit(rows.append, lambda: None, lambda: stop_after is not None and trainer.epoch >= stop_after)
    return rows


def test_equals_the_obvious_loop() -> None:
    """Weights after training equal those of a loop written out with plain PyTorch."""
    c = config(epochs=3, weight_decay=0.01, optimizer="sgd", momentum=0.9, grad_clip=0.5)
    built = build(c)
    fit(built)

    torch.manual_seed(c.seed)
    model = create("rectangular", input_shape=(2,), output_size=1, **c.model_options())
    x, y = built.data.train.x, built.data.train.y
    order = torch.Generator().manual_seed(c.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others}], c.lr, momentum=0.9, foreach=False, fused=False
    )
    with Jumpstart(model) as jumpstart:
        for _ in range(3):
            rows = torch.randperm(len(x), generator=order)
            for batch in rows.split(32):
                optimizer.zero_grad()
                loss = (
                    F.binary_cross_entropy_with_logits(model(x[batch])[:, 0], y[batch].float()) + 0.1 * jumpstart.loss
                )
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
    for (name, ours), theirs in zip(built.model.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_logged_values_are_those_of_the_weights() -> None:
    built = build(config(batchnorm=True, dropout=0.1))
    row = fit(built)[-1]
    built.model.eval()
    with torch.no_grad():
        output = built.model(built.data.val.x)
    y = built.data.val.y
    assert row["val/loss"] == pytest.approx(
        F.binary_cross_entropy_with_logits(output[:, 0], y.float()).item(), rel=1e-5
    )
    assert row["val/acc"] == ((output[:, 0] > 0) == y).float().mean().item()
    assert row["val/scaled_JR_loss"] == pytest.approx(0.1 * row["val/JR_loss"])
    assert row["val/total_loss"] == pytest.approx(row["val/loss"] + row["val/scaled_JR_loss"])
    assert sum(row[f"val/jr/unit_{kind}_ratio"] for kind in ("dead", "linear", "nonlinear")) == pytest.approx(1)


def test_training_sums_weigh_a_short_last_batch_right() -> None:
    """With a learning rate of nearly 0, the mean over batches of 32, 32 and 8 rows is the loss of all 72 at once."""
    built = build(config(epochs=1, lr=1e-12, lambda_=0.0))
    row = fit(built)[-1]
    with torch.no_grad():
        output = built.model(built.data.train.x)
    assert len(built.data.train) % 32 not in (0, 1)
    assert row["train/loss"] == pytest.approx(
        F.binary_cross_entropy_with_logits(output[:, 0], built.data.train.y.float()).item(), rel=1e-5
    )


def test_strength_zero_is_bit_identical_to_no_regularizer() -> None:
    measured = build(config(lambda_=0.0, dropout=0.2))
    fit(measured)
    plain = build(config(lambda_=0.0, dropout=0.2, log_status=False, regularizer=[]))
    fit(plain)
    for ours, theirs in zip(measured.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_penalty_alone_moves_the_weights_without_a_task() -> None:
    built = build(config(task_loss=False, lambda_=1.0, epochs=30))
    rows = fit(built)
    assert rows[-1]["train/JR_loss"] < 0.5 * rows[0]["train/JR_loss"]
    assert rows[-1]["train/total_loss"] == pytest.approx(rows[-1]["train/JR_loss"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3, "batchnorm": True},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "lr_schedule": "cosine", "lr_warmup": 2},
        {"optimizer": "adamw", "weight_decay": 0.1, "lr_schedule": "plateau", "lr_patience": 0},
        {"tie_breaking": "random", "batch_size": "full"},
        {"lr_schedule": "cyclic", "lr_cycle_length": 2, "log_every": 2},
    ],
    ids=str,
)
def test_resumed_equals_uninterrupted_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    c = config(epochs=7, **options)
    whole = build(c)
    rows = fit(whole)
    half = build(c)
    first = fit(half, stop_after=3)
    save_checkpoint(tmp_path / "last.pt", half.trainer.state_dict())
    torch.manual_seed(999)  # another process has another random state
    rest = build(c)
    rest.trainer.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert first + fit(rest) == rows
    for ours, theirs in zip(rest.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert rest.trainer.best.epoch == whole.trainer.best.epoch
    for name, value in whole.trainer.best.weights.items():
        assert torch.equal(rest.trainer.best.weights[name], value)


def test_seed_decides_the_initial_weights_and_the_batches() -> None:
    weights = [torch.cat([p.flatten() for p in build(config(seed=seed)).model.parameters()]) for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert fit(build(config(seed=1))) == fit(build(config(seed=1)))


def test_data_seed_holds_the_data_while_the_seed_moves() -> None:
    first, second = (build(config(seed=seed, data_seed=0)) for seed in (1, 2))
    assert torch.equal(first.data.train.x, second.data.train.x)
    assert not torch.equal(first.data.train.x, build(config(seed=1)).data.train.x)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    built = build(config(optimizer="sgd", lr=1e12, dataset="diabetes", activation="leaky_relu", epochs=50))
    with pytest.raises(RunFailed, match=r"(inf|nan) at epoch \d+; a lower --lr"):
        fit(built)


def test_early_stopping() -> None:
    reason = []
    for options in ({"stop_at": 0.5}, {"patience": 2, "lr": 1e-12}, {"stop_at": None}):
        built = build(config(epochs=9, **options))
        reason.append((built.trainer.fit(lambda row: None, lambda: None, lambda: False), built.trainer.epoch))
    assert reason[0][0] == "stop_at" and reason[0][1] < 9
    assert reason[1] == ("patience", 3), "the first epoch, and two that were no better"
    assert reason[2] == ("epochs", 9)


def test_rows_are_logged_at_the_first_every_nth_and_the_last_epoch() -> None:
    assert [row["epoch"] for row in fit(build(config(epochs=8, log_every=3, stop_at=None)))] == [1, 3, 6, 8]


def regression(targets: int) -> DataModule:
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        return Split(torch.randn(n, 3, generator=generator), torch.randn(n, targets, generator=generator))

    return DataModule(
        name="made",
        task="regression",
        train=split(20),
        val=split(10),
        test=None,
        classes=(),
        features=("a", "b", "c"),
        target_mean=(5.0,) * targets,
        target_std=tuple(float(i + 2) for i in range(targets)),
        notes=(),
    )


@pytest.mark.parametrize("targets", [1, 3])
def test_regression_metrics_equal_scikit_learn(targets: int) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    data = regression(targets)
    objective = Objective(data)
    output = torch.randn(10, targets, generator=torch.Generator().manual_seed(1))
    counts = objective.counts(output[:4], data.val.y[:4]) + objective.counts(output[4:], data.val.y[4:])
    found = {key: value.item() for key, value in objective.metrics(counts, data.val.y, len(data.val)).items()}
    scale = torch.tensor(data.target_std)
    true, predicted = (data.val.y * scale + 5).numpy(), (output * scale + 5).numpy()
    assert found["r2"] == pytest.approx(r2_score(true, predicted), abs=1e-5)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(true, predicted), rel=1e-5)
    assert found["mae"] == pytest.approx(mean_absolute_error(true, predicted), rel=1e-5)
    assert objective.loss(output, data.val.y).item() == pytest.approx(F.mse_loss(output, data.val.y).item())


def test_binary_label_smoothing_equals_two_class_cross_entropy() -> None:
    built = build(config(label_smoothing=0.2))
    logits = torch.randn(9, 1, generator=torch.Generator().manual_seed(0))
    y = torch.arange(9) % 2
    two_classes = torch.cat([torch.zeros_like(logits), logits], 1)
    expected = F.cross_entropy(two_classes, y, label_smoothing=0.2)
    torch.testing.assert_close(built.trainer.objective.loss(logits, y), expected)
    torch.testing.assert_close(built.trainer.objective.probabilities(logits), two_classes.softmax(1))


def test_chance_is_the_majority_of_the_validation_rows() -> None:
    built = build(config(dataset="breast_cancer"))
    y = built.data.val.y
    assert chance(built.data) == max((y == 0).sum().item(), (y == 1).sum().item()) / len(y)
    assert chance(regression(1)) == 0.0


def test_label_smoothing_needs_classes() -> None:
    with pytest.raises(UserError, match="label_smoothing: is for classification; diabetes"):
        build(config(dataset="diabetes", label_smoothing=0.1))


def test_two_penalties_of_a_kind_are_logged_apart() -> None:
    two = ["jumpstart(mode=unit)=0.5", "jumpstart(mode=point)=0.25"]
    row = fit(build(config(regularizer=two, epochs=2, lambda_=0)))[-1]
    assert (row["lambda/JR_loss"], row["lambda/JR_loss_2"]) == (0.5, 0.25)
    parts = row["train/loss"] + 0.5 * row["train/JR_loss"] + 0.25 * row["train/JR_loss_2"]
    assert row["train/total_loss"] == pytest.approx(parts)
    whole = fit(build(config(regularizer=["jumpstart"], lambda_=0.5, epochs=1)))[0]
    halves = ["jumpstart(mode=unit)", "jumpstart(mode=point)"]
    apart = fit(build(config(regularizer=halves, lambda_=0.5, epochs=1)))[0]
    assert (whole["lambda"], whole["val/acc"]) == (0.5, apart["val/acc"])
    assert whole["train/JR_loss"] == pytest.approx(apart["train/JR_loss"] + apart["train/JR_loss_2"], rel=1e-4)


def test_a_metric_that_is_undefined_still_leaves_a_best_epoch() -> None:
    built = build(config(dataset="diabetes", epochs=3))
    built.data.val.y[:] = 1.0  # R2 of a constant target is not defined
    rows = fit(built)
    assert all(not math.isfinite(row["val/r2"]) for row in rows)
    assert built.trainer.best.epoch == 1 and built.trainer.best.weights


def test_fast_dev_run_takes_one_step() -> None:
    built = build(config(fast_dev_run=True, epochs=50))
    (row,) = fit(built)
    assert row["epoch"] == 1
    (state,) = {int(state["step"]) for state in built.trainer.stepper.optimizer.state_dict()["state"].values()}
    assert state == 1


def test_images_train_a_convolutional_network() -> None:
    built = build(config(dataset="digits_image", depth=3, width=8, n_maxpool=1, epochs=4, subset=400))
    rows = fit(built)
    assert built.trainer.penalties[0].regularizer.coverage().layers
    assert rows[-1]["val/acc"] > 0.4


def test_options_of_images_are_refused_for_tables() -> None:
    with pytest.raises(UserError, match="kernel_size: is for images; the inputs of moons are 2 numbers"):
        build(config(kernel_size=5))


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.01)),
        ({"optimizer": "adam", "weight_decay": 0.5}, lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.5)),
        ({"optimizer": "adamw", "weight_decay": 0.5}, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5)),
        (
            {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
            lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_optimizer_is_the_one_asked_for(options: dict[str, Any], reference: Any) -> None:
    model, other = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 2, bias=False)
    other.load_state_dict(model.state_dict())
    ours, theirs = make_optimizer(config(**options), model), reference(other.parameters())
    for step in range(4):
        for network, optimizer in ((model, ours), (other, theirs)):
            optimizer.zero_grad()
            (network.weight.square() * (step + 1)).sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.weight, other.weight)


def test_label_smoothing_of_several_classes() -> None:
    objective = build(config(dataset="iris", label_smoothing=0.3)).trainer.objective
    logits, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    target = torch.nn.functional.one_hot(y, 3) * 0.7 + 0.1
    torch.testing.assert_close(objective.loss(logits, y), -(target * logits.log_softmax(1)).sum(1).mean())


def test_penalties_are_told_of_every_step() -> None:
    built = build(config(epochs=2, lr_schedule="exponential", lr_gamma=0.5, regularizer=["l1(prox=true)"]))
    told: list[float] = []
    regularizer = built.trainer.penalties[0].regularizer
    regularizer.step = lambda optimizer: told.append(optimizer.param_groups[0]["lr"])  # type: ignore[method-assign]
    fit(built)
    steps = -(-len(built.data.train) // 32)
    assert told == pytest.approx([0.01] * steps + [0.005] * steps)


def test_patience_goes_on_counting_after_a_resume() -> None:
    c = config(epochs=20, patience=4, lr=1e-12)
    half = build(c)
    fit(half, stop_after=3)
    rest = build(c)
    rest.trainer.load_state_dict(half.trainer.state_dict())
    fit(rest)
    assert rest.trainer.epoch == 5, "the first epoch, and four that were no better"
