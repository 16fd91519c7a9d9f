"""Orthogonality, against finite differences, matrices of known value and the formula of Keras in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regx.errors import UserError
from regx.regularizers import Orthogonal, create


def linear(values: Tensor) -> nn.Linear:
    layer = nn.Linear(values.shape[1], values.shape[0], bias=False)
    layer.weight.data = values.clone()
    return layer


def keras(matrix: np.ndarray, mode: str) -> float:
    """keras.regularizers.OrthogonalRegularizer with factor 1."""
    axis = 1 if mode == "rows" else 0
    unit = matrix / np.sqrt(np.maximum((matrix**2).sum(axis, keepdims=True), 1e-24))
    product = unit @ unit.T if mode == "rows" else unit.T @ unit
    size = len(product)
    return 0.5 * np.abs(product * (1 - np.eye(size))).sum() / (size * (size - 1) / 2)


def mixed() -> nn.Sequential:
    """Wide, tall, grouped, transposed and channels-last weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 2),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.ConvTranspose2d(3, 4, 2),
        nn.Linear(5, 3),
        nn.Linear(3, 5),
        nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    )
    return model.double()


@pytest.mark.parametrize("mode", ["smaller", "rows", "cols"])
@pytest.mark.parametrize("form", ["gram", "cosine"])
def test_gradient_is_that_of_finite_differences(form: Any, mode: Any) -> None:
    model = mixed()
    penalty = Orthogonal(model, form=form, vectors=mode)
    penalty.strength = 0.7
    gradients = torch.autograd.grad(penalty.loss, penalty.tensors)
    penalty.add_gradients()
    for weight, gradient in zip(penalty.weights, gradients, strict=True):
        numeric = torch.zeros_like(weight.tensor)
        for index in np.ndindex(*weight.tensor.shape):
            values = []
            for shift in (1e-6, -2e-6):
                with torch.no_grad():
                    weight.tensor[index] += shift
                values.append(penalty.loss.item())
            with torch.no_grad():
                weight.tensor[index] += 1e-6
            numeric[index] = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close(gradient, numeric.detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(weight.tensor.grad, 0.7 * gradient)
        assert weight.tensor.grad is not None and weight.tensor.grad.stride() == weight.tensor.stride()


def test_gram_of_known_matrices() -> None:
    orthogonal = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    for matrix in (orthogonal, orthogonal[:4], orthogonal[:, :4]):
        assert Orthogonal(linear(matrix)).loss.item() == pytest.approx(0, abs=1e-20)
    # Four zero rows of four columns: the identity is all that is left.
    assert Orthogonal(linear(torch.zeros(4, 4))).loss == 4
    matrix = torch.tensor([[1.0, 2, 0], [0, 1, 1]])  # W W^T - I = [[4, 2], [2, 1]]; W^T W - I by hand as well
    assert Orthogonal(linear(matrix)).loss == Orthogonal(linear(matrix), vectors="rows").loss == 16 + 4 + 4 + 1
    assert Orthogonal(linear(matrix), vectors="cols").loss == 0 + 4 + 4 + 16 + 1 + 1 + 0
    both = nn.Sequential(linear(matrix), linear(2 * torch.eye(3)))
    assert Orthogonal(both).loss == 25 + 3 * 9


def test_singular_values_decide_gram() -> None:
    """||W W^T - I||_F^2 = sum (s^2 - 1)^2, for filters of a convolution and of a transposed one."""
    torch.manual_seed(0)
    conv, transposed = nn.Conv2d(3, 4, 3).double(), nn.ConvTranspose2d(3, 4, 3).double()
    for layer, matrix in ((conv, conv.weight.flatten(1)), (transposed, transposed.weight.transpose(0, 1).flatten(1))):
        values = torch.linalg.svdvals(matrix.detach())
        assert Orthogonal(layer).loss.item() == pytest.approx((values**2 - 1).square().sum().item())


@pytest.mark.parametrize("mode", ["rows", "cols"])
def test_cosine_is_that_of_keras(mode: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Conv2d(2, 4, 3)).double()
    expected = [keras(layer.weight.detach().flatten(1).numpy(), mode) for layer in model]  # type: ignore[union-attr]
    assert Orthogonal(model, form="cosine", vectors=mode).loss.item() == pytest.approx(sum(expected))
    assert keras(np.array([[1.0, 0], [1, 1]]), "rows") == pytest.approx(0.5**0.5)  # 45 degrees


def test_cosine_takes_the_smaller_side() -> None:
    for layer, mode in ((nn.Linear(5, 3), "rows"), (nn.Linear(3, 5), "cols")):
        matrix = layer.weight.detach().numpy().astype(np.float64)
        assert Orthogonal(layer, form="cosine").loss.item() == pytest.approx(keras(matrix, mode), rel=1e-5)


@pytest.mark.parametrize("form", ["gram", "cosine"])
def test_finite_where_rows_are_zero(form: Any) -> None:
    for zeros in (slice(0, 1), slice(None)):
        values = torch.randn(3, 5)
        values[zeros] = 0
        layer = linear(values)
        penalty = Orthogonal(layer, form=form)
        (gradient,) = torch.autograd.grad(penalty.loss, penalty.tensors)
        assert penalty.loss.isfinite() and gradient.isfinite().all() and gradient.abs().max() < 1e3
        assert (gradient[zeros] == 0).all()


@pytest.mark.parametrize("form", ["gram", "cosine"])
def test_descent_makes_filters_orthogonal(form: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3)
    penalty = Orthogonal(layer, form=form)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.02 if form == "gram" else 0.05)
    first = penalty.loss.item()
    for _ in range(200):
        optimizer.zero_grad()
        penalty.add_gradients()
        optimizer.step()
        penalty.step(optimizer)
    assert penalty.loss.item() < (1e-6 if form == "gram" else 0.1 * first)


@pytest.mark.parametrize("form", ["gram", "cosine"])
def test_half_precision_and_autocast_count_in_float32(form: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    penalty = Orthogonal(layer, form=form)
    plain = penalty.loss
    expected = torch.autograd.grad(plain, penalty.tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = penalty.loss
    found = torch.autograd.grad(loss, penalty.tensors)
    assert loss == plain and torch.equal(found[0], expected[0])
    half = Orthogonal(layer.bfloat16(), form=form)
    assert half.loss.dtype == torch.float32 and half.loss.item() == pytest.approx(plain.item(), rel=0.05)
    half.add_gradients()
    assert layer.weight.grad is not None
    torch.testing.assert_close(
        layer.weight.grad.float(), expected[0], rtol=0.05, atol=0.05 * expected[0].abs().max().item()
    )


def test_what_it_reaches() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    assert Orthogonal(model).coverage().layers == ("0.weight", "1.weight")
    assert Orthogonal(model, biases=True).coverage().layers == ("0.weight", "1.weight")
    assert Orthogonal(model, form="cosine").coverage().layers == ("0.weight",)
    assert Orthogonal(model).zero_share() is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("orthogonal(form=cosine, include=1)", "no selected weight has two vectors"),
        ("orthogonal(prox=true)", "orthogonal has no option 'prox'"),
        ("orthogonal(vectors=row)", "vectors: 'row' is not among its choices; did you mean 'rows'"),
        ("orthogonal(form=grams)", "form: 'grams' is not among its choices; did you mean 'gram'"),
    ],
)
def test_what_cannot_be(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create(spec, nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)))
