"""What every registered regularizer promises, row by row: with its default options and as its example writes it."""

import copy
import io
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from regx.errors import UserError
from regx.registry import Info
from regx.regularizers import REGISTRY, Regularizer, create, parse

SPECS = list(dict.fromkeys(spec for row in REGISTRY.rows.values() for spec in (row.name, row.example) if spec))
# A dense net has no filters.
CASES = [(s, k) for k in ("dense", "conv") for s in SPECS if k == "conv" or not re.search("filter|channel|=conv", s)]
STRENGTH = 0.1  # of a spec without one


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def conv() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    for module in model:
        if isinstance(module, nn.BatchNorm2d):  # small outputs, which reach no margin
            nn.init.uniform_(module.weight, 0.1, 0.4)
    return model


def net_of(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return {"dense": dense, "conv": conv}[kind]().to(dtype)


def inputs(kind: str, dtype: torch.dtype = torch.float32, count: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs (count, ...) and targets (count, 3)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (6,) if kind == "dense" else (2, 6, 6)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randn(count, 3, generator=generator, dtype=torch.float64).to(dtype)


def attach(spec: str, model: nn.Module, strength: float | None = None) -> Regularizer:
    """The regularizer at `strength`, at the spec's own, or at `STRENGTH`."""
    torch.manual_seed(7)
    parsed = parse(spec)
    # A schedule needs epochs, so it is the trainer's.
    regularizer = REGISTRY[parsed.name].load()(model, **parsed.options) if parsed.schedule else create(spec, model)
    regularizer.strength = next(value for value in (strength, parsed.strength, STRENGTH) if value is not None)
    return regularizer


def fitted(spec: str, kind: str, dtype: torch.dtype = torch.float32, **how: Any) -> tuple[nn.Module, Regularizer]:
    """A net with the regularizer."""
    model = net_of(kind, dtype)
    return model, attach(spec, model, **how)


def optimizer_of(model: nn.Module, regularizer: Regularizer | None = None) -> torch.optim.SGD:
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if regularizer is not None and (own := list(regularizer.parameters())):
        groups.append({"params": own, "weight_decay": 0.0})
    return torch.optim.SGD(groups, 0.05, momentum=0.9)


def train(
    model: nn.Module, kind: str, regularizer: Regularizer | None, optimizer: torch.optim.Optimizer, steps: range
) -> None:
    """The trainer's protocol."""
    model.train()
    for step in steps:
        x, y = inputs(kind, next(model.parameters()).dtype, seed=step)
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        if regularizer and not regularizer.of_parameters and regularizer.strength > 0:
            loss = loss + regularizer.strength * regularizer.loss
        loss.backward()
        if regularizer and regularizer.of_parameters:
            regularizer.add_gradients()
        optimizer.step()
        if regularizer:
            regularizer.step(optimizer)


def loss_after_forward(model: nn.Module, regularizer: Regularizer, kind: str) -> Tensor:
    x, _ = inputs(kind, next(model.parameters()).dtype)
    model(x)
    return regularizer.loss


def trained_tensors(model: nn.Module, regularizer: Regularizer) -> list[nn.Parameter]:
    return [*model.parameters(), *regularizer.parameters()]


def hooks(model: nn.Module) -> list[Any]:
    return [
        hook
        for module in model.modules()
        for name, table in vars(module).items()
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and table
        for hook in table.values()
    ]


def assert_same_state(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_state(x, y)
    else:
        assert a == b


on_all = pytest.mark.parametrize(("spec", "kind"), CASES)
on_rows = pytest.mark.parametrize("row", REGISTRY.rows.values(), ids=lambda row: row.name)


@on_rows
def test_facts(row: Info) -> None:
    assert row.facts["kind"] in ("activations", "weights", "gates", "masks")
    assert row.facts["zeros"] in ("none", "elements", "groups", "gates")
    assert row.source and row.formula and "\n" not in row.formula
    spec = parse(row.example)
    assert spec.name == row.name and spec.strength is not None and spec.strength > 0


@on_all
def test_fits(spec: str, kind: str) -> None:
    _, regularizer = fitted(spec, kind)
    assert isinstance(regularizer, Regularizer)
    assert regularizer.strength == (parse(spec).strength or STRENGTH)


@on_all
def test_loss_is_a_finite_number(spec: str, kind: str) -> None:
    model, regularizer = fitted(spec, kind)
    loss = loss_after_forward(model, regularizer, kind)
    assert loss.shape == () and loss.isfinite() and loss >= 0
    assert loss.requires_grad == regularizer.has_loss
    if regularizer.of_parameters:
        model(inputs(kind, seed=5)[0])
        assert torch.equal(regularizer.loss, loss), "the inputs make no difference"
    if REGISTRY[parse(spec).name].facts["kind"] == "weights":
        fresh, alone = fitted(spec, kind)
        assert torch.equal(alone.loss, loss), "no forward pass is needed"
        del fresh


@on_all
def test_gradient_is_that_of_finite_differences(spec: str, kind: str) -> None:
    model, regularizer = fitted(spec, kind, torch.float64)
    if not regularizer.has_loss:
        assert loss_after_forward(model, regularizer, kind) == 0
        return
    tensors = trained_tensors(model, regularizer)
    loss = loss_after_forward(model, regularizer, kind)
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        directions = [0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in tensors]
        slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True) if g is not None)
        values = []
        for shift in (1e-6, -2e-6):
            with torch.no_grad():
                for x, d in zip(tensors, directions, strict=True):
                    x.add_(d, alpha=shift)
                values.append(loss_after_forward(model, regularizer, kind).item())
        with torch.no_grad():
            for x, d in zip(tensors, directions, strict=True):
                x.add_(d, alpha=1e-6)
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=2e-5, abs=1e-8)


@on_all
def test_add_gradients_is_the_gradient_of_the_loss(spec: str, kind: str) -> None:
    model, regularizer = fitted(spec, kind, torch.float64)
    if not regularizer.of_parameters:
        with pytest.raises(NotImplementedError):
            regularizer.add_gradients()
        return
    loss_after_forward(model, regularizer, kind)
    tensors = trained_tensors(model, regularizer)
    already = [torch.randn_like(x) for x in tensors]
    expected = [g.clone() for g in already]
    if regularizer.has_loss and not getattr(regularizer, "prox", False):
        found = torch.autograd.grad(regularizer.strength * regularizer.loss, tensors, allow_unused=True)
        expected = [a if g is None else a + g for a, g in zip(already, found, strict=True)]
        assert any(not torch.equal(a, b) for a, b in zip(already, expected, strict=True))
    for x, g in zip(tensors, already, strict=True):
        x.grad = g.clone()
    regularizer.add_gradients()
    for x, g in zip(tensors, expected, strict=True):
        assert x.grad is not None
        torch.testing.assert_close(x.grad, g, rtol=1e-10, atol=1e-12)
    # Where there is no gradient yet it makes one, and no more than one backward would.
    for x in tensors:
        x.grad = None
    regularizer.add_gradients()
    for x, g, a in zip(tensors, expected, already, strict=True):
        torch.testing.assert_close(torch.zeros_like(x) if x.grad is None else x.grad, g - a, rtol=1e-8, atol=1e-10)


# Penalties of weights that are not zero for a net of zeros, and what they are.
AT_ZERO: dict[str, Callable[[Any], float]] = {
    "l0_approx": lambda regularizer: sum(regularizer.coverage().parameters) * 1e-8**0.1,  # every |w| is eps
    "group_variance": lambda regularizer: len(regularizer.coverage().layers) / 1e-8,  # every variance is eps
    # ||0 - I||^2 is the smaller side of each matrix
    "orthogonal": lambda regularizer: sum(
        min(len(weight.tensor), weight.tensor[0].numel()) for weight in regularizer.weights
    ),
}


@on_all
def test_a_net_of_zeros(spec: str, kind: str) -> None:
    model, regularizer = fitted(spec, kind)
    with torch.no_grad():
        for x in model.parameters():
            x.zero_()
    name = parse(spec).name
    loss = loss_after_forward(model, regularizer, kind)
    if REGISTRY[name].facts["kind"] in ("weights", "masks"):
        expected = AT_ZERO[name](regularizer) if name in AT_ZERO else 0.0
        assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert_all_finite(model, regularizer, kind)


@on_all
@pytest.mark.parametrize("dim", [0, 1], ids=["output", "input"])
def test_a_group_of_zeros(spec: str, kind: str, dim: int) -> None:
    model, regularizer = fitted(spec, kind)
    with torch.no_grad():
        for x in model.parameters():
            x.select(min(dim, x.ndim - 1), 0).zero_()
    assert_all_finite(model, regularizer, kind)


def assert_all_finite(model: nn.Module, regularizer: Regularizer, kind: str) -> None:
    tensors = trained_tensors(model, regularizer)
    loss = loss_after_forward(model, regularizer, kind)
    assert loss.isfinite()
    if loss.requires_grad:
        for gradient in torch.autograd.grad(loss, tensors, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()
    optimizer = optimizer_of(model, regularizer)
    train(model, kind, regularizer, optimizer, range(2))
    assert all(x.isfinite().all() for x in tensors)


@on_all
def test_strength_zero_leaves_no_trace_in_training(spec: str, kind: str) -> None:
    plain = net_of(kind)
    torch.manual_seed(11)
    train(plain, kind, None, optimizer_of(plain), range(3))
    after = torch.rand(1)
    model, regularizer = fitted(spec, kind, strength=0.0)
    torch.manual_seed(11)
    train(model, kind, regularizer, optimizer_of(model, regularizer), range(3))
    assert torch.equal(torch.rand(1), after), "it draws no global random numbers"
    assert_same_state(dict(plain.state_dict()), dict(model.state_dict()))


@on_all
def test_strength_above_zero_changes_training(spec: str, kind: str) -> None:
    plain = net_of(kind)
    train(plain, kind, None, optimizer_of(plain), range(3))
    model, regularizer = fitted(spec, kind, strength=0.3)
    train(model, kind, regularizer, optimizer_of(model, regularizer), range(3))
    pairs = zip(plain.parameters(), model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@on_all
def test_detach_leaves_no_trace_in_the_model(spec: str, kind: str) -> None:
    model = net_of(kind)
    untouched = copy.deepcopy(model)
    x, _ = inputs(kind)
    before = [set(vars(module)) for module in model.modules()]
    regularizer = attach(spec, model)
    model.eval()(x)  # gates change what batch normalisation sees, and so its statistics
    regularizer.detach()
    regularizer.detach()  # may be repeated
    assert hooks(model) == []
    assert [set(vars(module)) for module in model.modules()] == before
    for mode in (True, False):
        assert torch.equal(model.train(mode)(x), untouched.train(mode)(x))
    assert_same_state(dict(untouched.state_dict()), dict(model.state_dict()))


@on_all
def test_a_reloaded_run_goes_on_bit_for_bit(spec: str, kind: str) -> None:
    model, regularizer = fitted(spec, kind)
    optimizer = optimizer_of(model, regularizer)
    train(model, kind, regularizer, optimizer, range(4))

    first, early = fitted(spec, kind)
    optimizer_first = optimizer_of(first, early)
    train(first, kind, early, optimizer_first, range(2))
    buffer = io.BytesIO()
    torch.save(
        {"model": first.state_dict(), "regularizer": early.state_dict(), "optimizer": optimizer_first.state_dict()},
        buffer,
    )
    train(first, kind, early, optimizer_first, range(90, 92))  # what was saved must not move on with the run
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)

    torch.manual_seed(99)
    second = net_of(kind)
    for x in second.parameters():
        nn.init.normal_(x)
    late = attach(spec, second)
    optimizer_second = optimizer_of(second, late)
    second.load_state_dict(state["model"])
    optimizer_second.load_state_dict(state["optimizer"])
    late.load_state_dict(state["regularizer"])
    train(second, kind, late, optimizer_second, range(2, 4))
    assert_same_state(dict(model.state_dict()), dict(second.state_dict()))
    assert_same_state(regularizer.state_dict(), late.state_dict())
    torch.testing.assert_close(list(regularizer.parameters()), list(late.parameters()), rtol=0, atol=0)


@on_rows
def test_the_state_of_something_else_is_refused(row: Info) -> None:
    regularizer = attach(row.name, net_of("conv"))
    with pytest.raises(UserError) as caught:
        regularizer.load_state_dict({"nonsense": 1})
    assert "\n" not in str(caught.value)


@on_all
def test_autocast(spec: str, kind: str) -> None:
    model, regularizer = fitted(spec, kind)
    optimizer = optimizer_of(model, regularizer)
    x, y = inputs(kind)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
            value = regularizer.loss
            loss = F.mse_loss(output.float(), y) + regularizer.strength * value
        assert value.isfinite() and value.dtype == torch.float32
        loss.backward()
        optimizer.step()
        regularizer.step(optimizer)
    assert all(p.isfinite().all() for p in trained_tensors(model, regularizer))
    # Nearly the loss of single precision.
    again, other = fitted(spec, kind)
    exact = loss_after_forward(again.eval(), other, kind).item()
    model, regularizer = fitted(spec, kind)
    with torch.autocast("cpu", torch.bfloat16):
        model.eval()(x)
        assert regularizer.loss.item() == pytest.approx(exact, rel=0.05, abs=0.01)


@on_rows
def test_compiled_model(row: Info) -> None:
    model, regularizer = fitted(row.name, "dense")
    x, y = inputs("dense")
    with warnings.catch_warnings():
        # the compiler looks at the gradient of whatever it meets between two graphs
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        compiled = torch.compile(model, backend="eager")
        output = compiled(x)
    value = regularizer.loss
    (F.mse_loss(output, y) + regularizer.strength * value).backward()
    plain, other = fitted(row.name, "dense")
    expected_output = plain(x)
    expected = other.loss
    (F.mse_loss(expected_output, y) + other.strength * expected).backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(output, expected_output)
    for a, b in zip(trained_tensors(model, regularizer), trained_tensors(plain, other), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)
    optimizer = optimizer_of(model, regularizer)
    optimizer.step()
    regularizer.step(optimizer)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store: Path = tmp_path_factory.mktemp("gloo") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@on_rows
def test_distributed_data_parallel(row: Info, process_group: None) -> None:
    model, regularizer = fitted(row.name, "conv")
    parallel = DistributedDataParallel(model)
    train(parallel, "conv", regularizer, optimizer_of(parallel, regularizer), range(2))
    plain, other = fitted(row.name, "conv")
    train(plain, "conv", other, optimizer_of(plain, other), range(2))
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@on_all
def test_copies_and_pickles_of_the_model(spec: str, kind: str) -> None:
    """A copy of the model is a model: it computes the same, and does not disturb the regularizer of the original."""
    model, regularizer = fitted(spec, kind, strength=0.0)
    x, _ = inputs(kind)
    model.eval()(x)
    value = regularizer.loss.detach().clone()
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other_x = x.flip(0) + 1
        with torch.no_grad():
            assert torch.equal(again(x), model(x))
            # Not bit for bit: the order of a sum depends on where its operands happen to lie in memory.
            torch.testing.assert_close(regularizer.loss, value, rtol=1e-4, atol=0)
            again(other_x)
            torch.testing.assert_close(regularizer.loss, value, rtol=1e-4, atol=0)


@on_all
def test_coverage(spec: str, kind: str) -> None:
    model, regularizer = fitted(spec, kind)
    parameters = dict(model.named_parameters())
    names = {name for name, _ in model.named_modules()} | set(parameters)
    for moment in ("before", "after"):
        coverage = regularizer.coverage()
        assert coverage.layers and set(coverage.layers) <= names, moment
        assert len(coverage.groups) in (0, len(coverage.layers))
        assert len(coverage.parameters) in (0, len(coverage.layers))
        if parse(spec).name != "jumpstart" and REGISTRY[parse(spec).name].facts["kind"] != "activations":
            assert sum(coverage.groups) > 0 and sum(coverage.parameters) > 0
        for name, count in zip(coverage.layers, coverage.parameters, strict=False):
            if name in parameters:
                assert count == parameters[name].numel()
        text = str(coverage)
        assert "\n" not in text and coverage.layers[0] in text and re.match(r"\d+ layers? \(", text)
        assert "\n" not in repr(regularizer)
        loss_after_forward(model, regularizer, kind)


@on_rows
def test_three_lines_are_all_there_is_to_it(row: Info) -> None:
    model = net_of("conv")
    start = copy.deepcopy(model.state_dict())
    x, y = inputs("conv")
    with row.load()(model) as regularizer:
        optimizer = optimizer_of(model, regularizer)
        loss = F.mse_loss(model(x), y) + regularizer.strength * regularizer.loss
        loss.backward()
        optimizer.step()
        regularizer.step(optimizer)
    assert hooks(model) == []
    assert math.isfinite(loss.item())
    assert not torch.equal(model.state_dict()["0.weight"], start["0.weight"])


@on_rows
def test_options_are_checked(row: Info) -> None:
    for parameter in row.parameters:
        near = rf".*did you mean '{parameter.name}'" if len(parameter.name) > 2 else ""
        with pytest.raises(UserError, match=rf"has no option '{parameter.name}x'{near}"):
            parse(f"{row.name}({parameter.name}x=1)")
        if parameter.choices:
            with pytest.raises(UserError, match=parameter.name):
                row.load()(net_of("conv"), **{parameter.name: "nothing of the kind"})
        if parameter.bounds and parameter.bounds.low is not None:
            with pytest.raises(UserError, match=parameter.name):
                row.load()(net_of("conv"), **{parameter.name: parameter.bounds.low - 1})


@on_rows
def test_strengths_are_checked(row: Info) -> None:
    regularizer = attach(row.name, net_of("conv"))
    for value in (-0.1, math.nan, math.inf):
        before = regularizer.strength
        with pytest.raises(UserError, match="strength"):
            regularizer.strength = value
        assert regularizer.strength == before
        with pytest.raises(UserError, match="strength"):
            create(f"{row.name}={value}", net_of("conv"))


@on_rows
def test_a_model_with_nothing_to_reach_is_refused(row: Info) -> None:
    with pytest.raises(UserError) as caught:
        row.load()(nn.Sequential(nn.Flatten(), nn.Identity()))
    assert "\n" not in str(caught.value)


@on_rows
def test_zeros_are_what_the_row_says(row: Info) -> None:
    """With proximal steps a great strength zeroes all there is; a row that makes no zeros has no share of them."""
    model = net_of("conv")
    if not any(parameter.name == "prox" for parameter in row.parameters):
        share = attach(row.name, model).zero_share()
        assert (share is None) == (row.facts["zeros"] == "none")
        return
    try:
        regularizer = attach(f"{row.name}(prox=true)", model, strength=1e6)
    except UserError as error:
        assert "no proximal step" in str(error) and row.facts["zeros"] == "none"
        return
    share = regularizer.zero_share()
    assert share is not None and share == 0
    optimizer = optimizer_of(model)
    train(model, "conv", None, optimizer, range(1))
    regularizer.step(optimizer)
    share = regularizer.zero_share()
    assert share is not None and share.shape == () and share == (0 if row.facts["zeros"] == "none" else 1)
    assert all(x.isfinite().all() for x in model.parameters())
