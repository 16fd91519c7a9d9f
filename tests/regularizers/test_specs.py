"""The registry of regularizers and the text form that the command line uses."""

import subprocess
import sys

import pytest
from torch import nn

import regx.regularizers
from regx.errors import UserError
from regx.regularizers import REGISTRY, Jumpstart, Regularizer, Spec, create, parse
from regx.regularizers.base import Coverage


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("jumpstart", Spec("jumpstart")),
        ("jumpstart=1e-4", Spec("jumpstart", {}, 1e-4)),
        ("jumpstart()=0", Spec("jumpstart", {}, 0.0)),
        (
            " jumpstart( mode = unit,sign_balance=.51 , skip_last=false, unit_dim=-1 ) = 2",
            Spec("jumpstart", {"mode": "unit", "sign_balance": 0.51, "skip_last": False, "unit_dim": -1}, 2.0),
        ),
        (
            "group_lasso(groups=blocks(2, 4), include=a.*|b.[0-9], prox=true)=1e-4",
            Spec("group_lasso", {"groups": "blocks(2, 4)", "include": "a.*|b.[0-9]", "prox": True}, 1e-4),
        ),
        (
            "l1(schedule=linear, warmup=3, prox=True)=0.1",
            Spec("l1", {"prox": True}, 0.1, {"schedule": "linear", "warmup": 3}),
        ),
    ],
)
def test_parse(spec: str, expected: Spec) -> None:
    assert parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jumpstrat=1", "unknown regularizer 'jumpstrat'; did you mean 'jumpstart'"),
        ("jumpstart(mod=unit)", "no option 'mod'; did you mean 'mode'"),
        ("jumpstart(mode=units)", "mode: 'units' is not among its choices; did you mean 'unit'"),
        ("jumpstart(sign_balance=2)", "sign_balance: 2 is out of bounds"),
        ("jumpstart(mode)", "write option=value"),
        ("jumpstart(mode=unit,mode=full)", "'mode' is given twice"),
        ("jumpstart(mode=unit", "cannot read"),
        ("group_lasso(groups=blocks(2,4)=1", "cannot read"),
        ("group_lasso(groups=blocks[2,4))=1", "the brackets do not match"),
        ("l1(schedul=linear)", "no option 'schedul'; did you mean 'schedule'"),
        ("l1(schedule=linaer)", "schedule: 'linaer' is not among its choices; did you mean 'linear'"),
        ("l1(start=0)", "start: 0 is out of bounds"),
        ("jumpstart mode", "cannot read"),
        ("", "cannot read"),
        ("jumpstart=-1", "strength '-1'.*not a finite number of at least 0"),
        ("jumpstart=nan", "strength 'nan'"),
        ("jumpstart=inf", "strength 'inf'"),
        ("jumpstart=", "strength ''"),
        ("jumpstart=much", "strength 'much'"),
    ],
)
def test_unreadable_specs(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(spec)
    assert "\n" not in str(caught.value)


def test_create() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    regularizer = create("jumpstart(mode=unit, tie_breaking=average)=0.25", model)
    assert isinstance(regularizer, Jumpstart) and isinstance(regularizer, Regularizer)
    assert (regularizer.strength, regularizer.mode) == (0.25, "unit")
    assert regularizer.preactivations.tie_breaking == "average"
    assert create("jumpstart", model).strength == 1.0
    with pytest.raises(UserError, match="strength"):
        regularizer.strength = float("nan")
    with pytest.raises(UserError, match="strength"):
        regularizer.strength = -0.1
    with pytest.raises(UserError, match=r"'warmup' is about epochs.*Strength"):
        create("jumpstart(warmup=3)=1", model)


def test_every_option_of_a_class_is_in_its_row() -> None:
    info = REGISTRY["jumpstart"]
    assert info.load() is Jumpstart
    assert info.facts == {"kind": "activations", "zeros": "none"}
    assert "10.1109/ACCESS.2025.3591313" in info.source
    assert {p.name: p.default for p in info.parameters} == Jumpstart.__init__.__kwdefaults__
    assert all(parameter.help for parameter in info.parameters)


def test_registry_needs_no_torch() -> None:
    code = (
        "import sys, regx.regularizers as r, regx.models as m; r.REGISTRY.rows; m.REGISTRY.rows;"
        "r.parse('jumpstart(mode=unit)=0.1'); dir(r); assert 'torch' not in sys.modules;"
        "r.Jumpstart; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_names() -> None:
    assert set(regx.regularizers.__all__) <= set(dir(regx.regularizers))
    assert all(getattr(regx.regularizers, name) is not None for name in regx.regularizers.__all__)
    with pytest.raises(AttributeError, match="Jumpstrat"):
        _ = regx.regularizers.Jumpstrat  # type: ignore[attr-defined]


def test_coverage_in_words() -> None:
    assert str(Coverage(("a",))) == "1 layer (a)"
    assert str(Coverage(("a", "b"), (1000, 200), (1, 2))) == "2 layers (a ... b), 1,200 units, 3 parameters"
    assert str(Coverage(("a", "b"), (4, 4), unit="heads(4)", total=4)) == "2 layers (a ... b), 4 heads(4)"


def test_base_class_is_stateless() -> None:
    regularizer = Regularizer()
    assert regularizer.state_dict() == {}
    regularizer.load_state_dict({})
    with pytest.raises(UserError, match="has no state"):
        regularizer.load_state_dict({"mask": 1})
