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
        function = component.__init__ if inspect.isclass(component) else component
        signature = inspect.signature(function)
        for parameter in row.parameters:
            assert signature.parameters[parameter.name].default == parameter.default, parameter
            assert parameter.help, parameter
            hint = signature.parameters[parameter.name].annotation
            hint = eval(hint, function.__globals__) if isinstance(hint, str) else hint
            if typing.get_origin(hint) is typing.Annotated:
                assert parameter.bounds == hint.__metadata__[0]
            if typing.get_origin(hint) is typing.Literal:
                assert parameter.choices == typing.get_args(hint)
        options = [
            p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
        ]
        assert [p.name for p in row.parameters] == options, f"{row.name}: an option lacks its docstring entry"
