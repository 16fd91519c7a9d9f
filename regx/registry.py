"""The registry of what regx can do: one frozen row per dataset, model, regularizer and schedule.

A component is one file in its room with one decorated class or function. Its row is *read* from the source (decorator,
signature, docstring) without importing it, so `regx list`, `--help` and completion never wait for PyTorch:

    @register("jumpstart", source="Riera Molina et al., IEEE Access 2025")
    class Jumpstart:
        '''Keeps every unit and every point alive.

        Args:
            sign_balance: weight of the positive constraints.
        '''
        def __init__(self, model, *, sign_balance: Annotated[float, Bounds(0, 1)] = 0.5): ...

Keyword-only arguments with a literal default are the component's options; their help is the docstring's `Args` entry.
Options that several components have are written once, in a base class that `shares="module:Class"` names.
"""

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from regx.errors import UserError, did_you_mean
from regx.parameters import Bounds, Parameter, check_options

T = TypeVar("T")


@dataclass(frozen=True)
class Info:
    """A row of a registry.

    Attributes:
        name: what a user types.
        summary: one line.
        target: `module:attribute` that implements it.
        parameters: its options.
        description: the whole docstring.
        source: paper, equation or data repository.
        formula: what it computes, in one line of plain text.
        example: how a user would write it.
        facts: further columns of its table (`task`, `rows`, ...).
    """

    name: str
    summary: str
    target: str
    parameters: tuple[Parameter, ...] = ()
    description: str = ""
    source: str = ""
    formula: str = ""
    example: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """Imports the module and returns the class or function."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def parameter(self, name: str) -> Parameter:
        """The option called `name`."""
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def check(self, options: dict[str, Any]) -> dict[str, Any]:
        """Returns `options` checked; raises `UserError` that names option, value and what would work."""
        return check_options(self.name, self.parameters, options)


def register(
    name: str,
    *,
    source: str = "",
    formula: str = "",
    example: str = "",
    shares: str = "",
    lacks: tuple[str, ...] = (),
    **facts: Any,
) -> Callable[[T], T]:
    """Marks a class or function as the component `name`; all arguments must be literals, as they are read, not run.

    Args:
        name: what a user types.
        source: paper, equation or data repository.
        formula: what it computes, in one line of plain text.
        example: how a user would write it.
        shares: `module:Class` of the same folder whose keyword-only arguments are options of this component too.
        lacks: those of them that are not.
        facts: further columns of its table.
    """

    def mark(component: T) -> T:
        component.registered_name = name  # type: ignore[attr-defined]
        component.registered_lacks = lacks  # type: ignore[attr-defined]
        return component

    return mark


class Registry:
    """The rows of one kind of component, in natural order (`resnet18` before `resnet101`).

    Args:
        kind: what the rows are, singular (`regularizer`); used in messages.
        folder: the folder whose files are read.
        package: the import name of that folder.
        more: rows that come from a table and not from decorated functions.
    """

    def __init__(self, kind: str, folder: Path, package: str, more: Callable[[], Iterable[Info]] = tuple) -> None:
        self.kind = kind
        self._folder = folder
        self._package = package
        self._more = more

    @functools.cached_property
    def rows(self) -> dict[str, Info]:
        """Name -> row."""
        found = [
            info for path in sorted(self._folder.glob("*.py")) for info in _read(path, f"{self._package}.{path.stem}")
        ]
        rows = {}
        for info in sorted([*found, *self._more()], key=lambda info: _natural(info.name)):
            if info.name in rows:
                raise ValueError(
                    f"two {self.kind}s are called {info.name!r}: {rows[info.name].target} and {info.target}"
                )
            rows[info.name] = info
        return rows

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def __getitem__(self, name: str) -> Info:
        if name not in self.rows:
            raise UserError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, self.rows)} (see `regx list {self.kind}s`)"
            )
        return self.rows[name]


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _read(path: Path, module: str) -> list[Info]:
    """Rows of the decorated classes and functions of one source file."""
    source = path.read_text(encoding="utf-8")
    if "@register(" not in source:
        return []
    tree = ast.parse(source)
    rows = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "register":
                rows.append(_row(node, call, module, tree, path.parent))
    return rows


def _row(node: ast.ClassDef | ast.FunctionDef, call: ast.Call, module: str, tree: ast.Module, folder: Path) -> Info:
    facts = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    parameters = _parameters(node, tree)
    if shares := facts.pop("shares", ""):
        stem, _, name = shares.partition(":")
        other = ast.parse((folder / f"{stem}.py").read_text(encoding="utf-8"))
        bases = [item for item in other.body if isinstance(item, ast.ClassDef) and item.name == name]
        if not bases:
            raise ValueError(f"{module}:{node.name} shares options with {shares}, which does not exist")
        (base,) = bases
        own = {parameter.name for parameter in parameters} | set(facts.get("lacks", ()))
        parameters += [parameter for parameter in _parameters(base, other) if parameter.name not in own]
    doc = _doc(node)
    return Info(
        name=ast.literal_eval(call.args[0]),
        summary=doc.partition("\n")[0].rstrip("."),
        target=f"{module}:{node.name}",
        parameters=tuple(parameters),
        description=doc,
        source=facts.pop("source", ""),
        formula=facts.pop("formula", ""),
        example=facts.pop("example", ""),
        facts={key: value for key, value in facts.items() if key != "lacks"},
    )


def _doc(node: ast.ClassDef | ast.FunctionDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")


def _parameters(node: ast.ClassDef | ast.FunctionDef, tree: ast.Module) -> list[Parameter]:
    """Options of a function, or of a class's `__init__`, whose help the docstring has."""
    aliases = {
        item.targets[0].id: item.value
        for item in tree.body
        if isinstance(item, ast.Assign) and len(item.targets) == 1 and isinstance(item.targets[0], ast.Name)
    }
    function: ast.stmt | None = node
    if isinstance(node, ast.ClassDef):
        inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        function = inits[0] if inits else None
    if not isinstance(function, ast.FunctionDef):
        return []
    help_of = _docstring_args(_doc(node))
    return [
        _parameter(argument.arg, argument.annotation, default, help_of[argument.arg], aliases)
        for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        if default is not None and argument.annotation is not None and argument.arg in help_of
    ]


def _parameter(name: str, note: ast.expr, default: ast.expr, text: str, aliases: dict[str, ast.expr]) -> Parameter:
    bounds, optional, choices, kind = None, False, None, ""
    if isinstance(note, ast.BinOp):  # X | None
        optional, note = True, note.left
    if isinstance(note, ast.Name) and note.id in aliases:
        note = aliases[note.id]
    if isinstance(note, ast.Subscript) and isinstance(note.value, ast.Name):
        inner = note.slice.elts if isinstance(note.slice, ast.Tuple) else [note.slice]
        if note.value.id == "Literal":
            choices, kind = tuple(ast.literal_eval(item) for item in inner), "str"
        elif note.value.id == "Annotated":
            kind = ast.unparse(inner[0])
            marker = inner[1]
            if isinstance(marker, ast.Call):
                bounds = Bounds(
                    *(ast.literal_eval(item) for item in marker.args),
                    **{keyword.arg: ast.literal_eval(keyword.value) for keyword in marker.keywords if keyword.arg},
                )
    kind = kind or ast.unparse(note)
    if kind.endswith(" | None"):
        kind, optional = kind.removesuffix(" | None"), True
    return Parameter(name, kind, ast.literal_eval(default), text, choices, bounds, optional)


def _docstring_args(doc: str) -> dict[str, str]:
    """Argument -> help of a Google docstring's `Args` section, folded to one line each."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", doc, flags=re.MULTILINE)
    if not section:
        return {}
    entries = re.findall(r"^ {4}(\w+): ((?:.*)(?:\n {5,}.*)*)", section.group(1), flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
