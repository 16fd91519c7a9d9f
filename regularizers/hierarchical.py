"""Group penalties on several levels at once (units, layers, blocks, stages, all weights), described by a small tree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from regx.errors import UserError, did_you_mean
from regx.registry import register
from regx.regularizers import REGISTRY
from regx.regularizers.elements import add_signs
from regx.regularizers.groups import Level, Part, cut
from regx.regularizers.precision import widened
from regx.regularizers.proximal import GroupNorms, proximal_step
from regx.regularizers.selection import Weight, select
from regx.regularizers.spec import read_tree
from regx.regularizers.tags import TAGS, blocks_of, stages_of, tags_of
from regx.regularizers.weights import WeightPenalty

TYPES = ("global", "layerwise", "hierarchical")
LEVELS = ("base_level", "layer", "block", "stage")
OUTER = ("sum", "L1", "L2", "none")
INNER = ("L1", "L2", "L0", "L0approx", "none")
KEYS = ("type", "groups", "include", "norm", "inner_norm", "lambda", "children")
_POWER, _EPS = 0.1, 1e-8


@register(
    "hierarchical",
    kind="weights",
    zeros="groups",
    shares="weights:WeightPenalty",
    formula="sum over the nodes of a tree: lambda * outer(inner(w_r) of every row r)",
    example="hierarchical(prox=true)=1e-4",
    source="avdosev/group_loss",
)
class Hierarchical(WeightPenalty):
    """Group penalties on several levels at once, from units to blocks, described by a small tree of nodes.

    A node of the tree is a mapping:

        type: layerwise        # global | layerwise | hierarchical
        groups: base_level     # a level, a tag, or a list of them; all weights without it
        include: layer1.*      # globs of parameter or module names, joined by |
        norm: L1               # over the rows: sum | L1 | L2 | none (default L2)
        inner_norm: L2         # within a row: L1 | L2 | L0 | L0approx | none (default L2)
        lambda: 0.01
        children: [...]        # nodes that see only the weights of this one

    A `global` node sees its weights as one row, a `layerwise` node as one row for each group of its level: base_level
    (units: filters and output rows), layer (the default), block or stage. Its penalty is lambda * outer(v), where
    v_r is inner(row r):

        inner: L1 sum |w|; L2 the Euclidean norm; L0 and L0approx sum (|w| + 1e-8)^0.1; none 0
        outer: sum, none and L1 sum v; L2 sum v^2, without a root

    The penalties of children are added. A `hierarchical` node has none of its own: norms and lambda are ignored.

    Tags (conv, linear, stem, head, shortcut) in `groups` select: the layers that have any of them. In a node that is
    not `layerwise`, block and stage select the layers that lie in one, base_level and layer everything. Types,
    norms, levels and tags may be written in any case. Usual trees:

        {type: global, lambda: 0.01}                                                    # weight decay, sum w^2
        {type: global, norm: sum, inner_norm: L1, lambda: 0.01}                         # l1
        {type: layerwise, groups: base_level, norm: L1, lambda: 0.01}                   # group lasso of the units
        {type: layerwise, groups: layer, norm: L1, lambda: 0.01}                        # whole layers
        {type: hierarchical, groups: block, children: [                                 # both, within blocks
            {type: layerwise, groups: layer, norm: L1, lambda: 0.01},
            {type: layerwise, groups: base_level, norm: L1, lambda: 0.01}]}

    What differs from avdosev/group_loss: any model will do, as its modules are walked to the bottom, where the
    reference sees only what was wrapped and tagged by hand, and of that only some; rows of blocks and stages exist;
    a weight counts once in a node, whatever tags it has; a missing lambda, a name that does not exist and a node
    without weights are errors, not zeros. Defaults are the same, so `norm: L1` alone is a group lasso, and L1 on a
    global node is lambda * ||W||_2.

    Group lasso terms (outer sum or L1, inner L2), sums of |w| (inner L1) and sums of squares (L2 of L2) have a proximal
    step, on any levels together; other nodes can only be trained on by their gradient.

        penalty = Hierarchical(model, config={"type": "layerwise", "groups": "block", "norm": "L1", "lambda": 1.0})
        penalty = Hierarchical(model, config="levels.yaml", prox=True)

    Args:
        config: a YAML file, or the YAML itself ({type: layerwise, groups: base_level, norm: L1, lambda: 1}); without it
            group lasso on three levels with lambda 1 each: units, layers and, where the model has some, blocks.

    Raises:
        UserError: a file or a node that cannot be read, or a node that reaches no weight, with its place in the tree.
    """

    @overload
    def __init__(self, model: nn.Module, *, config: str | None = None, **shared: Any) -> None: ...
    @overload
    def __init__(self, model: nn.Module, *, config: Mapping[str, Any], **shared: Any) -> None: ...
    def __init__(self, model: nn.Module, *, config: str | Mapping[str, Any] | None = None, **shared: Any) -> None:
        REGISTRY["hierarchical"].check(({} if isinstance(config, Mapping) else {"config": config}) | shared)
        super().__init__(model, **shared)
        reader = _Reader(model, self.weights)
        tree = reader.default() if config is None else read_tree(config) if isinstance(config, str) else config
        self.terms = [term for term in reader.node(tree, "", self.weights) if term.factor > 0]
        if not self.terms:
            raise UserError("no node has a lambda above 0 and an inner norm, so nothing is penalised", "config")
        if self.prox:
            _check_proximal(self.terms)
        reached = {name for term in self.terms for name in term.rows}
        self.weights = [weight for weight in self.weights if weight.name in reached]
        self._compile()

    def _compile(self) -> None:
        """Cuts the weights into pieces, their units, and finds the rows of the pieces in every node."""
        names = [weight.name for weight in self.weights]
        device = self.weights[0].tensor.device
        dtype = torch.float64 if any(weight.tensor.dtype == torch.float64 for weight in self.weights) else torch.float32
        # Also where all rows are coarse: the float32 norm of a whole weight is less exact than a sum over its units.
        units = {weight.name: _units(weight) for weight in self.weights}
        self._pieces = Level(list(units.values()), device=device)
        kinds = dict.fromkeys((term.inner, term.squared) for term in self.terms)
        self._rows = [
            _Rows([t for t in self.terms if (t.inner, t.squared) == kind], names, self._pieces.counts, device, dtype)
            for kind in kinds
        ]
        # Sums of |w| and of squares need no rows: one weight for each tensor.
        self._l1 = [_total(self.terms, "L1", False, name) for name in names]
        self._ridge = [_total(self.terms, "L2", True, name) for name in names]
        lasso = [term for term in self.terms if term.inner == "L2" and not term.squared]
        self._norms, self._nested = _nested_levels(lasso, names, units, device, dtype)
        self.levels = _finest(lasso, names, units, device)

    @property
    def unit(self) -> str:
        """What its groups are: units, groups of several levels, or elements where it has no groups."""
        if not self.levels:
            return "elements"
        return "units" if self.levels[0].ids is None else "groups"

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum over the nodes, 0-d."""
        tables = {inner: self._table(inner, tensors) for inner in {rows.inner for rows in self._rows}}
        return torch.stack([rows.value(tables[rows.inner]) for rows in self._rows]).sum()

    def accumulate(self, into: Sequence[Tensor], tensors: Sequence[Tensor], scale: float) -> None:
        """Adds the gradient of every node; those of Euclidean norms in one pass, whatever the number of levels."""
        for weight in dict.fromkeys(self._l1):
            chosen = [i for i, own in enumerate(self._l1) if own == weight != 0]
            if chosen:
                add_signs([into[i] for i in chosen], [tensors[i] for i in chosen], scale * weight)
        for inner, direction in (("L2", _same), ("L1", torch.sign), ("L0", _slope_of_power)):
            kinds = [rows for rows in self._rows if rows.inner == inner and (inner, rows.squared) != ("L1", False)]
            if not kinds:
                continue
            table = self._table(inner, tensors)
            factors = torch.stack([rows.slopes(table) for rows in kinds]).sum(0)
            for part, grad, x, factor in zip(
                self._pieces.parts, into, tensors, self._pieces.spread(factors), strict=True
            ):
                assert part is not None and factor is not None
                part.view(grad).addcmul_(part.view(direction(x)), factor, value=scale)

    def proximal(self, tensors: Sequence[Tensor], steps: Sequence[float | Tensor]) -> None:
        """Shrinks, thresholds the elements, then the groups from the finest to the coarsest."""
        norms = [GroupNorms(level, self.strength * factors) for level, factors in self._norms]
        l1, ridge = ([self.strength * own for own in weights] for weights in (self._l1, self._ridge))
        proximal_step(tensors, steps, l1=l1, norms=norms, ridge=ridge, nested=self._nested)

    def _table(self, inner: str, tensors: Sequence[Tensor]) -> Tensor:
        """(T,) what every piece adds to its row: squares, absolute values or powers."""
        if inner == "L2":
            return self._pieces.norms(tensors).square()
        power = 1.0 if inner == "L1" else _POWER
        wide = [widened(x) for x in tensors]
        return self._pieces.sums([x.abs() if power == 1 else (x.abs() + _EPS).pow(power) for x in wide])


@dataclass(frozen=True)
class Term:
    """The penalty of one node.

    Attributes:
        path: place of the node in the tree (`children[0]`), empty for the root.
        level: what a row is: `global` or one of `LEVELS`.
        inner: norm within a row: L1, L2, L0 or none.
        squared: whether the rows' norms are squared before they are added.
        factor: lambda; 0 for a node without effect.
        rows: name of the row of each weight that the node reaches; for base_level each weight has rows of its own.
    """

    path: str
    level: str
    inner: str
    squared: bool
    factor: float
    rows: dict[str, str]


class _Reader:
    """Turns a tree into terms.

    Args:
        model: the model.
        weights: the selected weights.
    """

    def __init__(self, model: nn.Module, weights: list[Weight]) -> None:
        self.model = model
        self.weights = weights
        self.tags = tags_of(model)
        self.owners = {"block": blocks_of(model), "stage": stages_of(model)}

    def default(self) -> dict[str, Any]:
        """Group lasso of units, layers and blocks, as far as the weights have them."""
        levels = {
            "base_level": any(weight.tensor.ndim > 1 for weight in self.weights),
            "layer": True,
            "block": any(weight.layer in self.owners["block"] for weight in self.weights),
        }
        lasso = {"type": "layerwise", "norm": "L1", "inner_norm": "L2", "lambda": 1.0}
        return {"type": "hierarchical", "children": [lasso | {"groups": level} for level in levels if levels[level]]}

    def node(self, node: Any, path: str, scope: list[Weight]) -> list[Term]:
        """Terms of a node and its children, which see the weights in `scope`."""
        if not isinstance(node, Mapping):
            raise _error(path, "", f"{node!r} is no node; write {{type: layerwise, groups: base_level, lambda: 1}}")
        for key in node:
            if key not in KEYS:
                raise _error(path, "", f"a node has no key {key!r}{did_you_mean(str(key), KEYS)}")
        if "type" not in node:
            raise _error(path, "type", f"is missing; use {', '.join(TYPES)}")
        kind = _name(node["type"], TYPES, path, "type")
        children = node.get("children") or []
        if not isinstance(children, list | tuple):
            raise _error(path, "children", f"{children!r} is no list of nodes")
        level, rows, scope = self._rows(node, kind, path, scope)
        terms = []
        if kind == "hierarchical":
            if not children:
                raise _error(path, "children", "is missing, and a hierarchical node has no penalty of its own")
        else:
            outer = _name(node.get("norm", "L2"), OUTER, path, "norm")
            inner = _name(node.get("inner_norm", "L2"), INNER, path, "inner_norm")
            factor = _factor(node, path, bool(children))
            inner = "L0" if inner == "L0approx" else inner
            terms = [Term(path, level, inner, outer == "L2", 0.0 if inner == "none" else factor, rows)]
        for i, child in enumerate(children):
            terms += self.node(child, f"{path}.children[{i}]".lstrip("."), scope)
        return terms

    def _rows(
        self, node: Mapping[str, Any], kind: str, path: str, scope: list[Weight]
    ) -> tuple[str, dict[str, str], list[Weight]]:
        """What a row of the node is, the row of each weight, and the weights that have one."""
        asked = node.get("groups")
        if isinstance(asked, str):
            asked = [] if asked.lower() == "none" else [asked]
        asked = [] if asked is None else asked
        if not isinstance(asked, list | tuple):
            raise _error(path, "groups", f"{asked!r} is no level or tag, or list of them")
        names = list(dict.fromkeys((*LEVELS, *TAGS)))
        asked = list(dict.fromkeys(_name(name, names, path, "groups") for name in asked))
        levels = [name for name in asked if name in LEVELS]
        tags = {name for name in asked if name not in LEVELS}
        level = "global"
        if kind == "layerwise":
            if len(levels) > 1:
                raise _error(path, "groups", f"{' and '.join(levels)} are two levels; write one node for each")
            level = levels[0] if levels else "layer"
        if tags:
            scope = [weight for weight in scope if tags & self.tags.get(weight.layer, frozenset())]
        if node.get("include") is not None:
            scope = self._included(node["include"], path, scope)
        for name in levels:
            if name in self.owners:
                scope = [weight for weight in scope if weight.layer in self.owners[name]]
        if level == "base_level":
            scope = [weight for weight in scope if weight.tensor.ndim > 1]
        if not scope:
            raise _error(path, "", f"the node reaches no weight of {type(self.model).__name__}")
        rows = {weight.name: self._row(weight, level) for weight in scope}
        return level, rows, scope

    def _row(self, weight: Weight, level: str) -> str:
        if level in self.owners:
            return self.owners[level][weight.layer]
        return {"global": "", "layer": weight.layer, "base_level": weight.name}[level]

    def _included(self, globs: Any, path: str, scope: list[Weight]) -> list[Weight]:
        if not isinstance(globs, str):
            raise _error(path, "include", f"{globs!r} is no text; join globs by |")
        try:
            names = {weight.name for weight in select(self.model, include=globs, biases=True)}
        except UserError as error:
            raise _error(path, "include", error.message) from None
        return [weight for weight in scope if weight.name in names]


class _Rows:
    """The rows of the terms of one kind, all levels in one table.

    Args:
        terms: terms with the same norms.
        names: names of the weights.
        counts: number of pieces of each weight.
        device: device of the weights.
        dtype: type of the sums.
    """

    def __init__(
        self, terms: list[Term], names: list[str], counts: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.inner, self.squared = terms[0].inner, terms[0].squared
        ids, factors = [], []
        for term in terms:
            known: dict[str, int] = {}
            for name, count in zip(names, counts, strict=True):
                row = term.rows.get(name)
                if row is None:
                    ids.append(torch.full((count,), -1))
                elif term.level == "base_level":
                    ids.append(torch.arange(count) + len(factors))
                    factors += [term.factor] * count
                else:
                    if row not in known:
                        known[row] = len(factors)
                        factors.append(term.factor)
                    ids.append(torch.full((count,), known[row]))
        self._terms = len(terms)
        # What a term does not reach is added to one more row, whose factor is zero.
        flat = torch.cat(ids)
        self._ids = torch.where(flat < 0, len(factors), flat).to(device)
        self._factors = torch.tensor([*factors, 0.0], dtype=dtype, device=device)

    def _norms(self, table: Tensor) -> Tensor:
        """(R,) inner norm of every row, from the (T,) table of the pieces."""
        sums = table.new_zeros(len(self._factors)).index_add_(0, self._ids, table.repeat(self._terms))
        return sums.sqrt() if self.inner == "L2" else sums

    def value(self, table: Tensor) -> Tensor:
        """Sum of factor * norm, or of its square, 0-d."""
        norms = self._norms(table)
        return self._factors.to(norms.dtype) @ (norms.square() if self.squared else norms)

    def slopes(self, table: Tensor) -> Tensor:
        """(T,) what the direction of every piece (w, sign(w), ...) is multiplied with in the gradient."""
        slopes = self._factors.to(table.dtype)
        if self.squared or self.inner == "L2":
            norms = self._norms(table)
            slopes = 2 * slopes * norms if self.squared else slopes
            if self.inner == "L2":
                slopes = torch.where(norms > 0, slopes / norms, 0)
        return slopes[self._ids].view(self._terms, -1).sum(0)


def _same(x: Tensor) -> Tensor:
    return x


def _slope_of_power(x: Tensor) -> Tensor:
    """Derivative of (|w| + eps)^p."""
    return (x.abs() + _EPS).pow_(_POWER - 1).mul_(x.sign()).mul_(_POWER)


def _units(weight: Weight) -> Part:
    """The weight cut into units; whole where it has none (a bias)."""
    part = cut("units" if weight.tensor.ndim > 1 else "layers", [weight])[1][0].parts[0]
    assert part is not None
    return part


def _total(terms: list[Term], inner: str, squared: bool, name: str) -> float:
    return sum(t.factor for t in terms if (t.inner, t.squared) == (inner, squared) and name in t.rows)


def _members(term: Term) -> list[frozenset[str]]:
    """The weights of each row."""
    rows: dict[str, set[str]] = {}
    for name, row in term.rows.items():
        rows.setdefault(row, set()).add(name)
    return [frozenset(members) for members in rows.values()]


def _row_factors(terms: list[Term]) -> dict[frozenset[str], float]:
    """Rows of whole weights, the smallest first, each once with the sum of its factors."""
    factors: dict[frozenset[str], float] = {}
    for term in terms:
        if term.level != "base_level":
            for members in _members(term):
                factors[members] = factors.get(members, 0.0) + term.factor
    return dict(sorted(factors.items(), key=lambda row: len(row[0])))


def _nested_levels(
    terms: list[Term], names: list[str], units: dict[str, Part], device: torch.device, dtype: torch.dtype
) -> tuple[list[tuple[Level, Tensor]], bool]:
    """Levels of disjoint groups with the factors of their norms, finest first; and whether all groups are nested."""
    levels = []
    by_unit = {name: sum(t.factor for t in terms if t.level == "base_level" and name in t.rows) for name in names}
    if any(by_unit.values()):
        level = Level([units[name] if by_unit[name] else None for name in names], device=device)
        each = [torch.full((n,), by_unit[name], dtype=dtype) for name, n in zip(names, level.counts, strict=True)]
        levels.append((level, torch.cat(each).to(device)))
    rows = _row_factors(terms)
    nested = True
    depth: dict[frozenset[str], int] = {}
    for members in rows:
        met = [other for other in depth if members & other]
        nested = nested and all(other <= members for other in met)
        depth[members] = 1 + max((depth[other] for other in met), default=-1)
    for d in range(max(depth.values(), default=-1) + 1):
        own = [members for members in rows if depth[members] == d]
        row_of = {name: i for i, members in enumerate(own) for name in members}
        parts = [units[name] if name in row_of else None for name in names]
        ids = torch.cat([torch.full(units[name].kept, row_of[name]).flatten() for name in names if name in row_of])
        factors = torch.tensor([rows[members] for members in own], dtype=dtype, device=device)
        levels.append((Level(parts, ids, device), factors))
    return levels, nested


def _finest(terms: list[Term], names: list[str], units: dict[str, Part], device: torch.device) -> list[Level]:
    """The level of the smallest groups: a weight's units, or else the smallest row it lies in; none without terms."""
    by_unit = {name for term in terms if term.level == "base_level" for name in term.rows}
    rows = _row_factors(terms)
    parts: list[Part | None] = []
    ids: list[Tensor] = []
    known: dict[frozenset[str], int] = {}
    count = 0
    for name in names:
        row = next((members for members in rows if name in members), None)
        if name in by_unit:
            parts.append(units[name])
            found = math.prod(units[name].kept)
            ids.append(torch.arange(found) + count)
            count += found
        elif row is not None:
            parts.append(Part(units[name].shape, ()))
            if row not in known:
                known[row], count = count, count + 1
            ids.append(torch.tensor([known[row]]))
        else:
            parts.append(None)
    if not ids:
        return []
    return [Level(parts, None if not known else torch.cat(ids), device)]


def _check_proximal(terms: list[Term]) -> None:
    for term in terms:
        if term.inner == "L0" or (term.inner == "L1" and term.squared):
            what = "L0" if term.inner == "L0" else "the square of inner L1"
            where = f"{term.path}: " if term.path else ""
            raise UserError(
                f"{where}{what} has no proximal step; use norm: L1 with inner_norm L1 or L2, or prox=false", "config"
            )


def _name(value: Any, known: Sequence[str], path: str, key: str) -> str:
    """The name among `known` that `value` is, in any case; YAML's null is none."""
    text = "none" if value is None else str(value)
    for name in known:
        if name.lower() == text.lower():
            return name
    raise _error(path, key, f"{text!r} is no {_NOUNS[key]}{did_you_mean(text, known)}")


_NOUNS = {"type": "type", "groups": "level or tag", "norm": "norm", "inner_norm": "inner norm"}


def _factor(node: Mapping[str, Any], path: str, has_children: bool) -> float:
    """A node's lambda."""
    if "lambda" not in node and not has_children:
        raise _error(path, "lambda", "is missing; give a number above 0")
    given = node.get("lambda", 0.0)
    try:
        # YAML reads 1e-4 as text.
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise _error(path, "lambda", f"{given!r} is not a finite number of at least 0")
    return value


def _error(path: str, key: str, message: str) -> UserError:
    place = ".".join(part for part in (path, key) if part)
    return UserError(f"{place}: {message}" if place else message, "config")
