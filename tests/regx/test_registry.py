"""Rows are read from source without importing it, and say the same as the imported object."""

import inspect
import typing
from pathlib import Path

import pytest

from regx.data import REGISTRY as DATASETS
from regx.errors import UserError
from regx.models import REGISTRY as MODELS
from regx.parameters import Bounds
from regx.registry import Registry
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.training.schedules import REGISTRY as SCHEDULES

SOURCE = '''
raise RuntimeError("this file must never be imported")
from typing import Annotated, Literal
from regx.registry import register
Mode = Literal["full", "unit"]

@register("ten10", source="Somebody 2020", task="binary")
class Ten:
    """Does a thing.

    More about it.

    Args:
        model: the network.
        mode: which
            terms.
        rho: weight of it.
        k: how many.

    Raises:
        ValueError: never.
    """

    def __init__(
        self, model, *, mode: Mode = "full", rho: Annotated[float, Bounds(0, 1)] = 0.5, k: int | None = None
    ) -> None:
        pass

@register("ten2")
def two():
    """Is a function."""
'''


def test_reads_without_importing(tmp_path: Path) -> None:
    (tmp_path / "ten.py").write_text(SOURCE)
    registry = Registry("thing", tmp_path, "nowhere")
    assert list(registry.rows) == ["ten2", "ten10"], "natural order"
    row = registry["ten10"]
    assert (row.summary, row.source, row.facts, row.target) == (
        "Does a thing",
        "Somebody 2020",
        {"task": "binary"},
        "nowhere.ten:Ten",
    )
    mode, rho, k = row.parameters
    assert (mode.choices, mode.default, mode.help) == (("full", "unit"), "full", "which terms.")
    assert (rho.type, rho.bounds, rho.default) == ("float", Bounds(0, 1), 0.5)
    assert (k.type, k.optional, k.default) == ("int", True, None)


SHARED = '''
class Penalty:
    """What they share.

    Args:
        model: the network.
        include: which weights.
        prox: whether to step.
        depth: has a help here.
        hidden: has one too.
    """

    def __init__(
        self, model, *, include: str | None = None, prox: bool = False, depth: int = 1, quiet: int = 0, needed: int
    ) -> None:
        pass
'''

SHARING = '''
raise RuntimeError("this file must never be imported")

@register(
    "lasso", shares="shared:Penalty", formula="sum |w|", example="lasso(prox=true)=1e-4", source="S", kind="weights"
)
class Lasso(Penalty):
    """Sums.

    Args:
        share: how much.
        depth: how deep it goes.
    """

    def __init__(self, model, *, share: Annotated[float, Bounds(0, 1)] = 0.5, depth: int = 7, **shared) -> None:
        pass

@register("plain", shares="shared:Penalty")
class Plain(Penalty):
    """Has no constructor of its own."""
'''


def test_shared_options_follow_a_rows_own(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED)
    (tmp_path / "lasso.py").write_text(SHARING)
    registry = Registry("thing", tmp_path, "nowhere")
    assert list(registry.rows) == ["lasso", "plain"], "the base class is no row"
    row = registry["lasso"]
    assert [(p.name, p.default) for p in row.parameters] == [
        ("share", 0.5),
        ("depth", 7),
        ("include", None),
        ("prox", False),
    ], "own ones first, and they win; an option without help or default is none"
    assert row.parameter("depth").help == "how deep it goes."
    assert row.parameter("include").optional and row.parameter("prox").type == "bool"
    assert (row.formula, row.example, row.source) == ("sum |w|", "lasso(prox=true)=1e-4", "S")
    assert row.facts == {"kind": "weights"}, "formula, example, source and shares are no facts"
    assert [p.name for p in registry["plain"].parameters] == ["include", "prox", "depth"]
    assert registry["plain"].formula == registry["plain"].example == ""
    assert row.check({"prox": "true", "share": "0.25"}) == {"prox": True, "share": 0.25}
    with pytest.raises(UserError, match="lasso has no option 'proxy'; did you mean 'prox'"):
        row.check({"proxy": True})


def test_sharing_with_a_class_that_does_not_exist_fails(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED)
    for shares in ("shared:Penal", "other:Penalty"):
        (tmp_path / "lasso.py").write_text(SHARING.replace("shared:Penalty", shares))
        with pytest.raises((ValueError, StopIteration, OSError)):
            _ = Registry("thing", tmp_path, "nowhere").rows


def test_unknown_name_is_one_line_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "ten.py").write_text(SOURCE)
    with pytest.raises(UserError, match=r"^unknown thing 'ten20'; did you mean 'ten2'\? \(see `regx list things`\)$"):
        Registry("thing", tmp_path, "nowhere")["ten20"]


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(SOURCE)
    with pytest.raises(ValueError, match="two things are called 'ten2'"):
        _ = Registry("thing", tmp_path, "nowhere").rows


@pytest.mark.parametrize(
    "registry",
    [MODELS, REGULARIZERS, SCHEDULES, DATASETS],
    ids=lambda r: r.kind,
)
def test_rows_agree_with_the_imported_objects(registry: Registry) -> None:
    assert registry.rows
    for row in registry.rows.values():
        component = row.load()
        assert row.summary, row.name
        if not row.parameters:
            continue
        options = keyword_options(component)
        for parameter in row.parameters:
            option, namespace = options[parameter.name]
            assert option.default == parameter.default, parameter
            assert parameter.help, parameter
            hint = option.annotation
            hint = eval(hint, namespace) if isinstance(hint, str) else hint
            if typing.get_origin(hint) is typing.Annotated:
                assert parameter.bounds == hint.__metadata__[0]
            if typing.get_origin(hint) is typing.Literal:
                assert parameter.choices == typing.get_args(hint)
        offered = [name for name in options if name not in component.registered_lacks]
        assert [p.name for p in row.parameters] == offered, f"{row.name}: an option lacks its docstring entry"


def keyword_options(component: typing.Any) -> dict[str, tuple[inspect.Parameter, dict[str, typing.Any]]]:
    """Name -> keyword-only argument with a default and its namespace; those that `**shared` takes come last."""
    classes = component.__mro__ if inspect.isclass(component) else [component]
    found: dict[str, tuple[inspect.Parameter, dict[str, typing.Any]]] = {}
    for owner in classes:
        if inspect.isclass(owner) and "__init__" not in vars(owner):
            continue
        function = vars(owner)["__init__"] if inspect.isclass(owner) else owner
        arguments = inspect.signature(function).parameters.values()
        for p in arguments:
            if p.kind is p.KEYWORD_ONLY and p.default is not p.empty:
                found.setdefault(p.name, (p, function.__globals__))
        if all(p.kind is not p.VAR_KEYWORD for p in arguments):
            break
    return found


def test_shared_options_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(
        "class Base:\n    '''B.\n\n    Args:\n        one: first.\n        two: second.\n    '''\n"
        "    def __init__(self, *, one: int = 1, two: int = 2): ...\n"
    )
    decorated = "@register('x', shares='base:Base', lacks=('two',))\nclass X:\n    def __init__(self, **shared): ...\n"
    (tmp_path / "x.py").write_text(decorated)
    row = Registry("thing", tmp_path, "nowhere").rows["x"]
    assert [p.name for p in row.parameters] == ["one"] and row.facts == {}
    (tmp_path / "x.py").write_text(decorated.replace("base:Base", "base:Nobody"))
    with pytest.raises(ValueError, match="X shares options with base:Nobody, which does not exist"):
        _ = Registry("thing", tmp_path, "nowhere").rows
