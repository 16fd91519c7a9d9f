"""Reads YAML as its version 1.2 says, and remembers on which line everything stands.

PyYAML reads version 1.1, in which `1e-5` is a text and the parameter names `on`, `off`, `yes` and `no` are booleans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from regx.errors import UserError

# Where a value stands in a document: the keys and list positions that lead to it.
Place = tuple[str | int, ...]

# A few nested anchors can stand for more values than a computer holds.
MOST_VALUES = 200_000

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2, section 10.3.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        resolver = _Loader("")
        plain = resolver.resolve(yaml.ScalarNode, data, (True, False)) == f"{_TAG}str"
        return self.represent_scalar(f"{_TAG}str", data, style=None if plain else "'")

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


@dataclass(frozen=True)
class Document:
    """A YAML file.

    Attributes:
        path: the file; what messages name.
        value: dicts with text keys, lists, str, int, float, bool and None.
        lines: line of every value that stands in the file.
    """

    path: Path
    value: Any
    lines: dict[Place, int] = field(repr=False)

    def fail(self, message: str, *place: str | int) -> NoReturn:
        """Raises `UserError` with file and line of what stands at `place`, or of the nearest thing around it."""
        while place not in self.lines:
            place = place[:-1]
        raise UserError(f"{self.path}, line {self.lines[place]}: {message}")


def read(path: Path) -> Document:
    """Reads a file.

    Raises:
        UserError: no such file, or not YAML: with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {path}: {reason}") from None
    return parse(text, path)


def scalar(text: str) -> Any:
    """The value that `text` has in a file: `1e-5` a number, `[a, b]` a list."""
    return parse(text, Path("--set")).value


def dump(value: Any) -> str:
    """The text of a file that both `read` and W&B, whose YAML is of version 1.1, read as `value`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def parse(text: str, path: Path) -> Document:
    """Reads the text of a file called `path`.

    Raises:
        UserError: not YAML: with the line.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = [part for part in (error.context, error.problem) if part]
        reason = " ".join(", ".join(said).split())
        raise UserError(f"{path}, line {mark.line + 1 if mark else 1}: not YAML: {reason}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    document = Document(path, None, {(): 1})
    value = _Reader(document).value(root, ()) if root is not None else None
    return Document(path, value, document.lines)


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self._open: set[int] = set()

    def value(self, node: yaml.Node, place: Place) -> Any:
        """The value of a node; notes its line."""
        lines, tag = self.document.lines, node.tag.removeprefix(_TAG)
        lines.setdefault(place, node.start_mark.line + 1)
        if len(lines) > MOST_VALUES:
            self.document.fail(f"stands for more than {MOST_VALUES:,} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, tag, place)
        if id(node) in self._open:
            self.document.fail("an anchor contains itself", *place)
        if tag not in ("map", "seq"):
            self.document.fail(f"the tag {node.tag!r} is not for sweeps; leave it out", *place)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, place)
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: Any, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*place, key)
            line = key_node.start_mark.line + 1
            if key_node.tag == f"{_TAG}merge":
                for source in self._sources(value_node, place):
                    merged = self.value(source, place) | merged
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.document.fail("a key must be a name", *place)
            if key in found:
                self.document.lines[here] = line
                self.document.fail(f"{key!r} is given twice", *here)
            self.document.lines[here] = line
            found[key] = self.value(value_node, here)
            self.document.lines[here] = line
        return merged | found

    def _sources(self, node: yaml.Node, place: Place) -> Iterator[yaml.Node]:
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(item, yaml.MappingNode):
                self.document.fail("`<<` needs a mapping", *place)
            yield item

    def _scalar(self, node: yaml.ScalarNode, tag: str, place: Place) -> Any:
        text = node.value
        try:
            if tag == "null":
                return None
            if tag == "bool":
                return {"true": True, "false": False}[text.lower()]
            if tag == "int":
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            if tag == "float":
                return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
        except (KeyError, ValueError):
            self.document.fail(f"{text!r} is no {tag}", *place)
        if tag not in ("str", "merge"):
            self.document.fail(f"the tag {node.tag!r} is not for sweeps; leave it out", *place)
        return text
