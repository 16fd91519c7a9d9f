"""One step: parts of a batch, decay, rates per step, precision, mixed labels, weights to begin with."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from regx.data.mixing import mix
from regx.errors import UserError
from regx.training.build import Experiment, build
from regx.training.experiments import RectangularConfig, ResNetConfig
from regx.training.folder import save_checkpoint
from regx.training.objective import Objective
from regx.training.step import make_optimizer


def table(**options: Any) -> RectangularConfig:
    small: dict[str, Any] = {"depth": 3, "width": 6, "epochs": 3, "batch_size": 32, "lr": 0.01, "optimizer": "sgd"}
    return RectangularConfig(n_samples=120, **small | options)


def images(**options: Any) -> ResNetConfig:
    small: dict[str, Any] = {"depth": 20, "width_multiplier": 0.5, "image_size": 8, "n_samples": 100, "epochs": 2}
    return ResNetConfig(dataset="fake", batch_size=32, log_status=False, **small | options)


def fit(built: Experiment) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    built.trainer.fit(rows.append, lambda: None, lambda: False)
    return rows


def assert_same_weights(ours: Experiment, theirs: Experiment, rtol: float, atol: float) -> None:
    for (name, value), other in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "options",
    [
        {"regularizer": []},
        {"regularizer": ["l1=0.01"], "weight_decay": 0.01, "grad_clip": 0.5},
        {"regularizer": ["l1(clip=100)=0.01"]},
        {"regularizer": ["l1(prox=true)=0.01"], "momentum": 0.9},
        {"regularizer": ["group_lasso=0.01"], "batch_size": "full"},
    ],
    ids=str,
)
def test_a_batch_in_parts_is_the_whole_batch(options: dict[str, Any]) -> None:
    """Batches of 30, 30 and 12 rows: 4 parts of 8, 8, 7, 7, and of 3."""
    whole, parts = (build(table(**{"batch_size": 30} | options, accumulate=parts)) for parts in (1, 4))
    assert len(whole.data.train) % 30 == 12
    first, second = fit(whole), fit(parts)
    assert_same_weights(whole, parts, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(first, second, strict=True):
        assert theirs["train/loss"] == pytest.approx(ours["train/loss"], rel=1e-5)
        assert theirs["train/acc"] == pytest.approx(ours["train/acc"])


def test_norms_and_biases_decay_only_if_asked_for() -> None:
    """A step of SGD with gradients of zero multiplies what decays by 1 - rate * decay, and nothing else."""
    for decay_norms in (False, True):
        config = images(optimizer="sgd", lr=0.5, weight_decay=0.1, decay_norms=decay_norms, regularizer=[])
        model = build(config).model
        with torch.no_grad():
            for p in model.parameters():
                p.normal_()
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        make_optimizer(config, model).step()
        assert any(p.ndim == 1 for p in before)
        for p, old in zip(model.parameters(), before, strict=True):
            factor = 0.95 if old.ndim > 1 or decay_norms else 1.0
            torch.testing.assert_close(p.detach(), old * factor)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [32, 32, 8]), (True, [32, 32])])
def test_drop_last_leaves_out_the_short_batch(drop_last: bool, sizes: list[int]) -> None:
    built = build(table(drop_last=drop_last, epochs=2))
    seen: list[int] = []
    inner = built.trainer.stepper.accumulate

    def counting(x: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(len(x))
        return inner(x, *arguments, **options)

    built.trainer.stepper.accumulate = counting  # type: ignore[method-assign]
    fit(built)
    assert seen == sizes * 2


def torchs_rates(make: Any, steps: int, lr: float) -> list[float]:
    """The rate that each step uses under one of torch's own schedules, driven once per step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({"lr_schedule": "cosine", "lr_min": 0.001}, lambda o: lr_scheduler.CosineAnnealingLR(o, 12, 0.001)),
        (
            {"lr_schedule": "multistep", "lr_milestones": "1,3", "lr_gamma": 0.5},
            lambda o: lr_scheduler.MultiStepLR(o, [3, 9], 0.5),
        ),
        ({"lr_schedule": "step", "lr_cycle_length": 2}, lambda o: lr_scheduler.StepLR(o, 6, 0.1)),
        ({"lr_schedule": "exponential"}, lambda o: lr_scheduler.ExponentialLR(o, 0.1 ** (1 / 3))),
    ],
)
@pytest.mark.parametrize("warmup", [0, 2])
def test_rates_of_each_step_are_those_of_torch(options: dict[str, Any], make: Any, warmup: int) -> None:
    """Four epochs of three steps; a warm-up of two epochs multiplies the first six rates."""
    built = build(table(lr_update="step", lr_warmup=warmup, epochs=4, regularizer=[], **options))
    stepper = built.trainer.stepper
    used: list[float] = []
    inner = stepper.update

    def noting() -> None:
        used.append(stepper.optimizer.param_groups[0]["lr"])
        inner()

    stepper.update = noting  # type: ignore[method-assign]
    rows = fit(built)
    expected = torchs_rates(make, 12, 0.01)
    if warmup:
        factors = torchs_rates(lambda o: lr_scheduler.LinearLR(o, 1e-5, 1.0, 6), 12, 1.0)
        expected = [rate * factor for rate, factor in zip(expected, factors, strict=True)]
    assert used == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert [row["lr"] for row in rows] == used[2::3], "the rate of the last step of each epoch"


def test_rates_per_epoch_stay_within_an_epoch() -> None:
    built = build(table(lr_update="epoch", lr_schedule="exponential", lr_gamma=0.5, regularizer=[]))
    assert [row["lr"] for row in fit(built)] == pytest.approx([0.01, 0.005, 0.0025])


def test_the_memory_format_changes_nothing_but_rounding() -> None:
    last, first = (build(images(channels_last=on, optimizer="sgd", lambda_=0.1)) for on in (True, False))
    assert last.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
    assert first.model.conv1.weight.is_contiguous()  # type: ignore[union-attr]
    rows = fit(last), fit(first)
    assert_same_weights(last, first, rtol=1e-4, atol=1e-5)
    assert rows[0][-1]["val/loss"] == pytest.approx(rows[1][-1]["val/loss"], rel=1e-4)


def test_bf16_trains_float32_weights() -> None:
    half, full = (build(images(amp=amp, lambda_=0.01)) for amp in ("bf16", "no"))
    before = [p.detach().clone() for p in half.model.parameters()]
    outputs: list[torch.dtype] = []
    half.model.fc.register_forward_hook(lambda m, x, y: outputs.append(y.dtype))  # type: ignore[union-attr]
    rows = fit(half), fit(full)
    assert set(outputs) == {torch.bfloat16}
    for p, old in zip(half.model.parameters(), before, strict=True):
        assert p.dtype == torch.float32 and not torch.equal(p, old)
    for ours, theirs in zip(*rows, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=0.03)
        assert ours["train/loss"] != theirs["train/loss"]


def test_fp16_learns_with_scaled_gradients() -> None:
    half, full = (build(table(amp=amp, epochs=4, lambda_=0.05)) for amp in ("fp16", "no"))
    assert half.trainer.stepper.scaler.get_scale() > 1
    rows = fit(half), fit(full)
    for ours, theirs in zip(*rows, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=0.01)
    assert_same_weights(half, full, rtol=0.05, atol=0.005)


def test_fp16_skips_a_step_with_infinite_gradients() -> None:
    """Nothing moves: neither the optimiser nor the proximal step nor the average; the scale is halved."""
    built = build(table(amp="fp16", regularizer=["l1(prox=true)=1"], ema=0.9))
    trainer, stepper = built.trainer, built.trainer.stepper
    trainer.penalties[0].begin(1)
    x, y = built.data.train.x[:8], built.data.train.y[:8]
    weights = list(built.model.parameters())

    def step() -> list[Tensor]:
        stepper.accumulate(x, y, 1.0, first=True, last=True)
        stepper.update()
        return [p.detach().clone() for p in weights]

    before, scale = [p.detach().clone() for p in weights], stepper.scaler.get_scale()
    hook = weights[0].register_hook(lambda gradient: gradient * torch.inf)
    assert all(torch.equal(ours, old) for ours, old in zip(step(), before, strict=True))
    assert stepper.scaler.get_scale() == scale / 2
    assert stepper.ema is not None and stepper.ema.steps == 0
    hook.remove()
    assert not torch.equal(step()[0], before[0])
    assert stepper.ema.steps == 1


@pytest.mark.parametrize(("mixup", "cutmix", "smoothing"), [(0.4, 0.0, 0.0), (0.0, 1.0, 0.0), (0.4, 1.0, 0.2)], ids=str)
def test_mixed_labels(mixup: float, cutmix: float, smoothing: float) -> None:
    """The loss is the cross-entropy to the mixed labels; the accuracy is that of the image's own label."""
    config = images(mixup=mixup, cutmix=cutmix, label_smoothing=smoothing, epochs=1, batchnorm=False, regularizer=[])
    built = build(config)
    inner = built.trainer.stepper.accumulate
    hits, losses, rows = 0.0, 0.0, 0

    def checking(
        x: Tensor, y: Tensor, weight: float, *, first: bool, last: bool, mixing: torch.Generator | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        nonlocal hits, losses, rows
        assert mixing is not None
        again = torch.Generator()
        again.set_state(mixing.get_state())
        mixed, target = mix(x, y, 10, mixup=mixup, cutmix=cutmix, generator=again)
        assert not torch.equal(mixed, x)
        target = target * (1 - smoothing) + smoothing / 10
        with torch.no_grad():
            output = built.model(mixed)
        hits += (output.argmax(1) == y).sum().item()
        losses += -(target * output.log_softmax(1)).sum().item()
        rows += len(y)
        return inner(x, y, weight, first=first, last=last, mixing=mixing)

    built.trainer.stepper.accumulate = checking  # type: ignore[method-assign]
    (row,) = fit(built)
    assert row["train/loss"] == pytest.approx(losses / rows, rel=1e-5)
    assert row["train/acc"] == pytest.approx(hits / rows)


def test_top5_equals_sorted_outputs() -> None:
    data = build(images()).data
    objective = Objective(data)
    generator = torch.Generator().manual_seed(0)
    output, y = torch.randn(40, 10, generator=generator), torch.randint(10, (40,), generator=generator)
    counts = objective.counts(output[:25], y[:25]) + objective.counts(output[25:], y[25:])
    found = {key: value.item() for key, value in objective.metrics(counts, y, 40).items()}
    ranked = np.argsort(-output.numpy(), axis=1)
    assert found["acc"] == pytest.approx((ranked[:, 0] == y.numpy()).mean())
    assert found["top5_acc"] == pytest.approx((ranked[:, :5] == y.numpy()[:, None]).any(1).mean())
    assert 0 < found["acc"] < found["top5_acc"] < 1


def best_of(config: RectangularConfig | ResNetConfig, path: Path) -> dict[str, Tensor]:
    """Trains, writes the best weights as a run does, and returns them."""
    built = build(config)
    fit(built)
    built.trainer.restore_best()
    save_checkpoint(path, {"epoch": built.trainer.best.epoch, "model": built.model.state_dict()})
    return built.model.state_dict()


def test_a_run_begins_with_the_best_weights_of_another(tmp_path: Path) -> None:
    weights = best_of(images(), tmp_path / "best.pt")
    second = build(images(pretrained=str(tmp_path / "best.pt"), seed=7))
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert second.describe()[-1] == f"{len(weights)} tensors from {tmp_path / 'best.pt'}"


def test_a_last_layer_for_other_classes_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    weights = best_of(table(dataset="moons"), path)
    second = build(table(dataset="blobs", pretrained=str(path)))
    fresh = build(table(dataset="blobs")).model.state_dict()
    own = second.model.state_dict()
    anew = {name for name, value in own.items() if value.shape != weights[name].shape}
    assert {len(own[name]) for name in anew} == {second.data.output_size} != {1}
    for name, value in own.items():
        assert torch.equal(value, (fresh if name in anew else weights)[name]), name
    layer = next(iter(anew)).rpartition(".")[0]
    assert second.notes[-1].startswith(f"{layer} has 1 outputs in {path} and {second.data.output_size} here")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from the compiler's own look
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # and of that version
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_a_compiled_network_learns_the_same() -> None:
    compiled, plain = (build(images(compile=on, optimizer="sgd", lambda_=0.01)) for on in (True, False))
    rows = fit(compiled), fit(plain)
    assert_same_weights(compiled, plain, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(*rows, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-3)
        assert ours["train/JR_loss"] == pytest.approx(theirs["train/JR_loss"], rel=1e-3)


def test_averaged_weights_are_validated_with_averaged_statistics() -> None:
    """What the average scores is close to what it scores with statistics that are computed anew for it."""
    built = build(images(batchnorm=True, ema=0.95, epochs=4, optimizer="sgd", lr=0.1, n_samples=200, seed=1))
    row = fit(built)[-1]
    model, data = built.model, built.data
    with built.trainer.averaged():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # the mean over all batches
        model.train()
        with torch.no_grad():
            for batch in data.train.batches([slice(i, i + 16) for i in range(0, len(data.train) - 15, 16)]):
                model(batch.x)
        model.eval()
        with torch.no_grad():
            anew = F.cross_entropy(model(data.val.sample(len(data.val))), data.val.y).item()
    assert row["val/loss"] == pytest.approx(anew, rel=0.25)


def test_a_resumed_run_needs_no_pretrained_file(tmp_path: Path) -> None:
    torch.save(build(images()).model.state_dict(), tmp_path / "weights.pt")
    config = images(pretrained=str(tmp_path / "weights.pt"))
    built = build(config)
    assert built.notes
    (tmp_path / "weights.pt").unlink()
    with pytest.raises(UserError, match="there is no file"):
        build(config)
    again = build(config, resumes=True)
    again.trainer.load_state_dict(built.trainer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), built.model.parameters(), strict=True))
