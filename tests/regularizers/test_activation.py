"""Penalties of activations, against the outputs themselves and the division of Keras."""

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regx.errors import UserError
from regx.regularizers import ActivationL1, ActivationL2, create

KINDS = [ActivationL1, ActivationL2]


def hook_counts(model: nn.Module) -> list[int]:
    return [
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.startswith("_") and "hooks" in name and hooks is not None
    ]


def obvious(kind: type, outputs: list[Tensor], reduction: str) -> Tensor:
    power = 1 if kind is ActivationL1 else 2
    if reduction == "mean":
        return torch.stack([x.abs().pow(power).mean() for x in outputs]).mean()
    # Keras: the sum over everything divided by the batch size.
    return torch.stack([x.abs().pow(power).sum() / x.shape[0] for x in outputs]).sum()


class Residual(nn.Module):
    """Shared, in-place and overwritten: what a network can do to an activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.act = act
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.conv1(x))
        h = self.act(self.norm(self.conv2(h)))
        if not isinstance(self.act, nn.ReLU):
            h *= 2  # overwrites the output that the penalty has read
        return self.fc(h.flatten(1))

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        act = copy.deepcopy(self.act)
        if hasattr(act, "inplace"):
            act.inplace = False  # type: ignore[assignment]
        conv1 = self.conv1(x)
        act1 = act(conv1)
        conv2 = self.conv2(act1)
        return {"conv1": conv1, "act": act1, "conv2": conv2, "act:1": act(self.norm(conv2))}


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(inplace=True)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient(kind: Any, reduction: Any, act: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    for hook_at, names in (("activation", ("act", "act:1")), ("layer", ("conv1", "conv2"))):
        model = Residual(copy.deepcopy(act)).double()
        penalty = kind(model, reduction=reduction, hook_at=hook_at)
        parameters = list(model.parameters())[:-2]
        loss = model(x).sum() + penalty.loss
        gradients = torch.autograd.grad(loss, parameters)
        value = penalty.loss.item()
        penalty.detach()
        outputs = model.outputs(x)
        expected = obvious(kind, [outputs[name] for name in names], reduction)
        assert value == pytest.approx(expected.item())
        torch.testing.assert_close(gradients, torch.autograd.grad(model(x).sum() + expected, parameters))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_finite_differences(kind: Any, reduction: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.GELU()).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    penalty = kind(model, reduction=reduction)

    def loss(*parameters: Tensor) -> Tensor:
        torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))
        return penalty.loss

    names = [name for name, _ in model.named_parameters()]
    assert torch.autograd.gradcheck(loss, tuple(model.parameters()))


@pytest.mark.parametrize(("reduction", "l1", "l2"), [("mean", 2.5, 7.5), ("sum", 5.0, 15.0)])
def test_by_hand(reduction: Any, l1: float, l2: float) -> None:
    model = nn.ReLU()
    both = [ActivationL1(model, reduction=reduction), ActivationL2(model, reduction=reduction)]
    model(torch.tensor([[1.0, 2], [3, 4]]))
    assert [penalty.loss.item() for penalty in both] == [l1, l2]
    model(torch.tensor([[1.0, -2], [-3, 4], [0, 0], [0, 3]]))
    expected = [8 / 8, 26 / 8] if reduction == "mean" else [8 / 4, 26 / 4]
    assert [penalty.loss.item() for penalty in both] == expected


def test_layers_of_different_size_count_alike_in_the_mean() -> None:
    layer = nn.Linear(8, 1, bias=False)
    nn.init.ones_(layer.weight)
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), layer, nn.ReLU())
    penalty = ActivationL1(model)
    model(torch.ones(2, 8))
    assert penalty.loss == (1 + 8) / 2
    assert str(penalty.coverage()) == "2 layers (0 ... 3), 9 activations"


def test_what_is_hooked() -> None:
    model = nn.Sequential(
        nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3), nn.PReLU(), nn.Softmax(-1), nn.Linear(3, 3)
    )
    assert ActivationL1(model).coverage().layers == ("3",)
    assert ActivationL1(model, hook_at="layer").coverage().layers == ("1",)
    assert ActivationL1(model, hook_at="layer", skip_last=False).coverage().layers == ("1", "5")


@pytest.mark.parametrize("kind", KINDS)
def test_every_forward_pass_starts_anew(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    penalty = kind(model)
    x, y = torch.randn(5, 3), torch.randn(2, 3)
    model(x)
    model.eval()
    with torch.no_grad():
        model(y)
        assert not penalty.loss.requires_grad
    assert penalty.loss.item() == pytest.approx(obvious(kind, [model(y)], "mean").item())
    with torch.inference_mode():
        model(x)
        value = penalty.loss.item()
    assert value == pytest.approx(obvious(kind, [model(x)], "mean").item())


def test_a_pass_that_failed_is_forgotten() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 4))
    penalty = ActivationL1(model)
    with pytest.raises(RuntimeError):
        model(torch.ones(2, 5))
    with pytest.raises(UserError, match="call the model first"):
        _ = penalty.loss
    model(torch.full((2, 3), 2.0))
    assert penalty.loss == 2


@pytest.mark.parametrize("kind", KINDS)
def test_detached_or_copied_models_carry_no_penalty(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    before = hook_counts(model)
    with kind(model) as penalty:
        model(torch.randn(5, 3))
        value = penalty.loss.item()
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other(torch.zeros(5, 3))
        assert penalty.loss.item() == value
    penalty.detach()
    assert hook_counts(model) == before
    with pytest.raises(UserError, match="detached"):
        _ = penalty.loss
    model(torch.randn(5, 3))


def test_outputs_are_not_kept_alive() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten())
    penalty = ActivationL1(model)
    seen = []
    handle = model[0].register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
    with torch.no_grad():
        model(torch.ones(2, 3, 4))
    gc.collect()
    handle.remove()
    assert penalty.loss == 1 and seen[0]() is None


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_summed_in_float32(kind: Any) -> None:
    """Five thousand ones a point: a running sum in bfloat16 would stop at 256."""
    layer = nn.Linear(2, 5000)
    nn.init.zeros_(layer.weight)
    nn.init.ones_(layer.bias)
    model = nn.Sequential(layer, nn.ReLU())
    penalty = kind(model, reduction="sum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(2, 2)).dtype == torch.bfloat16
        loss = penalty.loss
    assert loss.dtype == torch.float32 and loss.item() == 5000
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert gradients[1].tolist() == [1.0 if kind is ActivationL1 else 2.0] * 5000


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpoints(kind: Any) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 3), nn.GELU())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False)

    model = Checkpointed()
    penalty = kind(model)
    x = torch.randn(4, 2)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(model(x).sum() + penalty.loss, parameters)
    assert penalty.coverage().layers == ("body.1",)
    a = model.body(x)
    torch.testing.assert_close(gradients, torch.autograd.grad(a.sum() + obvious(kind, [a], "mean"), parameters))


def test_compiled_models() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.GELU())
    penalty = ActivationL1(model)
    compiled = torch.compile(model, backend="aot_eager")
    parameters = list(model.parameters())
    for points in (5, 5, 7):
        x = torch.randn(points, 3)
        y = compiled(x)
        found = [penalty.loss, *torch.autograd.grad(y.sum() + penalty.loss, parameters)]
        y = model(x)
        expected = [penalty.loss, *torch.autograd.grad(y.sum() + penalty.loss, parameters)]
        torch.testing.assert_close(found, expected)


def test_sparsity_of_activations_rises() -> None:
    """What the penalty is for: more exact zeros behind ReLU, at the same task."""
    shares = []
    for strength in (0.0, 0.3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
        penalty = ActivationL1(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        x = torch.randn(64, 2)
        for _ in range(150):
            optimizer.zero_grad()
            loss = (model(x)[:, 0] - x[:, 0]).square().mean()
            (loss + strength * penalty.loss).backward()
            optimizer.step()
        shares.append((model[:2](x) == 0).float().mean().item())
    assert shares[1] > shares[0] + 0.1


@pytest.mark.parametrize(
    ("spec", "model", "message"),
    [
        ("activation_l1", nn.Linear(2, 2), "hook_at: Linear has no activation modules to hook; use nn.ReLU"),
        ("activation_l2(hook_at=layer)", nn.Linear(2, 2), "no layer modules to hook; skip_last is True"),
        ("activation_l1(reduction=max)", nn.ReLU(), "reduction: 'max' is not among its choices"),
        (
            "activation_l1(hook_at=layers)",
            nn.ReLU(),
            "hook_at: 'layers' is not among its choices; did you mean 'layer'",
        ),
    ],
)
def test_what_cannot_be(spec: str, model: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create(spec, model)


def test_outputs_that_cannot_be_penalised() -> None:
    class Pair(nn.ReLU):
        def forward(self, input: Tensor) -> Any:
            return input, input

    for model, x, message in (
        (Pair(), torch.ones(2), "output of 'Pair' is tuple"),
        (nn.ReLU(), torch.ones(()), r"output of 'ReLU' is a tensor of shape \(\)"),
        (nn.ReLU(), torch.ones(0, 3), r"output of 'ReLU' is a tensor of shape \(0, 3\)"),
    ):
        penalty = ActivationL1(model)
        with pytest.raises(UserError, match="no activations yet"):
            _ = penalty.loss
        with pytest.raises(UserError, match=message):
            model(x)
