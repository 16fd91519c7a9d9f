"""Values and steps beside those of torchao and Keras.

They are no dependencies: `pip install torchao keras`, then `pytest -m peers`.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from regx.regularizers import create
from regx.regularizers.weights import WeightPenalty

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # their warnings are theirs


@pytest.fixture(scope="module")
def pat() -> Any:
    return pytest.importorskip("torchao.prototype.pat.optim")


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras")


def random_linear(inputs: int = 30, outputs: int = 20, dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs).to(dtype)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(outputs, 1, dtype=dtype)).mul_(torch.rand(inputs, dtype=dtype))
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_threshold_of_torchao(pat: Any, dtype: torch.dtype) -> None:
    layer = random_linear(dtype=dtype)
    theirs = layer.weight.detach().clone()
    pat.ProxLasso(0.4).apply_(theirs, 0.1)
    create("l1(prox=true)=0.4", layer).step(0.1)
    torch.testing.assert_close(layer.weight.detach(), theirs)
    assert torch.equal(layer.weight == 0, theirs == 0) and 0.1 < (theirs == 0).double().mean() < 0.9


@pytest.mark.parametrize(("groups", "reduced"), [("rows", 1), ("cols", 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_soft_threshold_of_torchao(pat: Any, groups: str, reduced: int, dtype: torch.dtype) -> None:
    """Theirs multiplies the strength by the root of the group's size: `scaled=true`."""
    layer = random_linear(dtype=dtype)
    theirs = layer.weight.detach().clone()
    pat.ProxGroupLassoVectorized(0.3, reduced).apply_(theirs, 0.1)
    create(f"group_lasso(groups={groups}, scaled=true, prox=true)=0.3", layer).step(0.1)
    torch.testing.assert_close(layer.weight.detach(), theirs)
    assert torch.equal(layer.weight == 0, theirs == 0) and 0.1 < (theirs == 0).double().mean() < 0.9


def test_filters_of_torchao(pat: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 10, 3).double()
    with torch.no_grad():
        layer.weight.mul_(torch.rand(10, 1, 1, 1))
    theirs = layer.weight.detach().clone()
    for group in theirs:
        pat.ProxGroupLasso(0.3).apply_(group, 0.1)
    create("group_lasso(groups=filters, scaled=true, prox=true)=0.3", layer).step(0.1)
    torch.testing.assert_close(layer.weight.detach(), theirs)
    assert 0 < int((theirs.flatten(1) == 0).all(1).sum()) < 10


def test_training_with_the_optimiser_of_torchao(pat: Any) -> None:
    """Theirs averages gradients (AProx), ours does not: other paths, but one lasso, which scikit-learn knows."""
    from torchao.prototype.pat import PruneOptimizer  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12))
    y = x[:, [0, 3, 5]] @ [2.0, -1.5, 0.7] + 0.3 * rng.normal(size=60)
    lasso = Lasso(0.3, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y).coef_
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    torch.manual_seed(0)
    ours, theirs = nn.Linear(12, 1, bias=False).double(), nn.Linear(12, 1, bias=False).double()
    penalty = create("l1(prox=true)=0.3", ours)
    first = torch.optim.SGD(ours.parameters(), 0.1)
    group = {"params": [theirs.weight], "group_type": "ElemGrouper", "prox_type": "ProxLasso"}
    second = PruneOptimizer(torch.optim.SGD([group], 0.1), reg_lambda=0.3)
    for _ in range(1000):
        for layer, optimizer in ((ours, first), (theirs, second)):
            layer.weight.grad = ((inputs @ layer.weight[0] - targets) @ inputs / 60)[None].detach()
            optimizer.step()
        penalty.step(first)
    found = [layer.weight[0].detach().numpy() for layer in (ours, theirs)]
    print("distance to the lasso: ours {:.1e}, torchao's {:.1e}".format(*(np.abs(w - lasso).max() for w in found)))
    print("zeros: lasso {}, ours {}, torchao's {}".format(*((w == 0).sum() for w in (lasso, *found))))
    assert np.abs(found[0] - lasso).max() < 1e-9 and ((found[0] == 0) == (lasso == 0)).all()
    assert np.abs(found[1] - lasso).max() < 1e-6 and ((found[1] == 0) == (lasso == 0)).all()


def value_of(regularizer: Any, kernel: Tensor) -> float:
    return float(regularizer(kernel))


def test_values_of_keras(keras: Any) -> None:
    """A Keras kernel is (inputs, outputs): the transposed weight."""
    layer = random_linear(dtype=torch.float32)
    kernel = layer.weight.detach().t()
    rules = keras.regularizers
    pairs = {
        "l1=0.02": rules.L1(0.02),
        "l2=0.03": rules.L2(0.03),
        "elastic_net(l1_ratio=0.25)=0.08": rules.L1L2(l1=0.02, l2=0.03),
        "orthogonal(form=cosine, vectors=rows)=0.5": rules.OrthogonalRegularizer(0.5, mode="columns"),
        "orthogonal(form=cosine, vectors=cols)=0.5": rules.OrthogonalRegularizer(0.5, mode="rows"),
    }
    for spec, theirs in pairs.items():
        penalty = create(spec, layer)
        ours = (penalty.strength * penalty.loss).item()
        print(f"{spec}: {ours:.8f}, Keras {value_of(theirs, kernel):.8f}")
        assert ours == pytest.approx(value_of(theirs, kernel), rel=1e-5), spec


def test_gradients_of_keras(keras: Any) -> None:
    layer = random_linear(dtype=torch.float32)
    for spec, theirs in (("l1=0.02", keras.regularizers.L1(0.02)), ("l2=0.03", keras.regularizers.L2(0.03))):
        kernel = layer.weight.detach().t().clone().requires_grad_()
        theirs(kernel).backward()
        penalty = create(spec, layer)
        assert isinstance(penalty, WeightPenalty)
        layer.weight.grad = None
        penalty.add_gradients()
        assert layer.weight.grad is not None and kernel.grad is not None
        np.testing.assert_allclose(layer.weight.grad.numpy(), kernel.grad.t().numpy(), rtol=1e-6)
