"""A sweep as its file says: W&B's own format, checked against the options of the experiment that it runs.

What is wrong is told with file and line before anything runs. W&B's server only warns, and runs the rest.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from regx.errors import UserError, did_you_mean
from regx.sweeps import distributions, document, sidecar
from regx.sweeps.distributions import Distribution
from regx.sweeps.document import Document
from regx.sweeps.hyperband import Hyperband
from regx.sweeps.sidecar import Sidecar
from regx.training import log_keys
from regx.training.experiments import EXPERIMENTS
from regx.training.options import Option, options_of

KEYS = (
    *("apiVersion", "kind", "controller", "description", "program", "job", "image_uri", "entity", "project", "method"),
    *("command", "name", "run_cap", "metric", "early_terminate", "parameters"),
)
METHODS = ("grid", "random", "bayes")
COMMAND = ["${env}", "regx", "sweep", "trial", "EXPERIMENT", "${args_json_file}"]
# A bundle's own name, beside the options in it.
LABEL = "label"
# What the engines set.
ENGINES_OWN = ("run_dir", "name", "group", "wandb", "entity", "project")


@dataclass(frozen=True)
class Metric:
    """What a sweep looks for.

    Attributes:
        name: key of a run's log.
        goal: `minimize` or `maximize`.
        target: the search may end at this value.
    """

    name: str
    goal: Literal["minimize", "maximize"]
    target: float | None = None

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return one > other if self.goal == "maximize" else one < other


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: of the registry's entry or of the file, without suffix; its runs lie in a folder of this name.
        path: the file.
        experiment: `rectangular` or `resnet`.
        method: `grid`, `random` or `bayes`.
        metric: what the best run is best in; None where the experiment's own monitored metric decides.
        run_cap: most configurations; None for all of a grid.
        early: hyperband.
        parameters: name, dotted where nested -> distribution.
        sidecar: repeats, constraints, tables.
        document: the file, with changes from the command line.
        settings: options of every run that say where it is logged.
        wandb_sweep: id of the sweep on a W&B server, under which tracked runs appear.
    """

    name: str
    path: Path
    experiment: str
    method: str
    metric: Metric | None
    run_cap: int | None
    early: Hyperband | None
    parameters: dict[str, Distribution]
    sidecar: Sidecar
    document: Document = field(repr=False)
    settings: dict[str, Any] = field(default_factory=lambda: {"wandb": "disabled"})
    wandb_sweep: str | None = None

    @property
    def options(self) -> dict[str, Option]:
        """The options of the experiment by their spelling in files."""
        return options_of_experiment(self.experiment)

    def points(self) -> int | None:
        """How many points a grid has; None for an endless space."""
        if self.method != "grid":
            return self.run_cap
        count = math.prod(distribution.size() or 1 for distribution in self.parameters.values())
        return count if self.run_cap is None else min(count, self.run_cap)

    def seeds(self) -> list[int | None]:
        """The seeds that every configuration is repeated with; [None] leaves the seed to the parameters."""
        return list(self.sidecar.seeds) or [None]


def read(
    path: Path,
    changes: dict[str, Any] | None = None,
    *,
    name: str | None = None,
    seeds: list[int] | None = None,
    run_cap: int | None = None,
) -> Sweep:
    """Reads and checks a sweep's file and the sidecar beside it.

    Args:
        path: the file.
        changes: parameter -> what stands in its place: a value, or a list of values of a grid.
        name: of the sweep (default: the file's).
        seeds: in the place of the sidecar's.
        run_cap: in the place of the file's.

    Raises:
        UserError: with file, line, reason and what would work.
    """
    found = document.read(path)
    if not isinstance(found.value, dict):
        found.fail("holds no `key: value` lines")
    beside = sidecar.beside(path)
    notes = sidecar.read(beside)
    if run_cap is not None:
        found.value["run_cap"] = run_cap
    for key in found.value:
        if key not in KEYS:
            _unknown(found, key)
    experiment, told = _experiment(found)
    notes = dataclasses.replace(notes, where=notes.where + told.where, when=notes.when | told.when)
    notes = notes if seeds is None else dataclasses.replace(notes, seeds=seeds)
    options = options_of_experiment(experiment)
    _check_shapes(found, found.value.get("parameters"), ("parameters",))
    for key, value in (changes or {}).items():
        _change(found, key, value, options)
    sweep = Sweep(
        name=name or path.name.removesuffix(path.suffix),
        path=path,
        experiment=experiment,
        method=_method(found),
        metric=_metric(found),
        run_cap=_run_cap(found),
        early=_early(found),
        parameters=_parameters(found, options),
        sidecar=notes,
        document=found,
    )
    _check_method(found, sweep)
    _check_sidecar(document.read(beside) if beside.is_file() else found, sweep)
    _check_arguments(found, sweep)
    return sweep


def options_of_experiment(experiment: str) -> dict[str, Option]:
    """The options of an experiment by their spelling in files."""
    return {option.key: option for option in options_of(EXPERIMENTS[experiment])}


def bundle(value: Any) -> dict[str, Any]:
    """The options that a parameter's value stands for; `{}` unless it is a mapping."""
    return {key: item for key, item in value.items() if key != LABEL} if isinstance(value, dict) else {}


def leaf(name: str) -> str:
    """The option that a parameter is: the last part of a nested one's name; `lambda_` is `lambda`."""
    return name.rpartition(".")[2].rstrip("_")


def _unknown(found: Document, key: str) -> None:
    if key in ("scheduler", "metrics"):
        found.fail(f"{key!r} is for schedulers of W&B's server; use method grid, random or bayes", key)
    if key in Sidecar.__dataclass_fields__:
        beside = sidecar.beside(found.path).name
        found.fail(f"{key!r} is not for W&B's format; it belongs into {beside} beside this file", key)
    found.fail(f"unknown key {key!r}{did_you_mean(key, KEYS)}", key)


def _experiment(found: Document) -> tuple[str, Sidecar]:
    """What the command runs; and the conditions in it, which `regx sweep create` and `export` put there."""
    command = found.value.get("command")
    shown = " ".join(COMMAND[1:])
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        place = ("command",) if "command" in found.value else ()
        example = '["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]'
        found.fail(f"a sweep says what it runs; write command: {example}", *place)
    names = [Path(word).name for word in command]
    if "regx" not in names:
        found.fail(f"the command does not run regx; write {shown!r}", "command")
    rest = names[names.index("regx") + 1 :]
    if rest[:2] == ["sweep", "trial"]:
        rest = rest[2:]
    if not rest or rest[0] not in EXPERIMENTS:
        named = rest[0] if rest else ""
        found.fail(f"the command names no experiment: {named!r}{did_you_mean(named, EXPERIMENTS)}", "command")
    own: dict[str, list[str]] = {"--where": [], "--when": [], "--sweep": []}
    words = iter(rest[1:])
    given = []
    for word in words:
        if word in own:
            own[word].append(next(words, ""))
        elif not word.startswith("${args"):
            given.append(word)
    if given:
        option = given[0].lstrip("-").partition("=")[0].replace("-", "_")
        found.fail(f"{given[0]!r} in the command: write it under parameters, as {option}: {{value: ...}}", "command")
    if not any(word.startswith("${args") for word in rest):
        found.fail('the command hands no parameters on; add "${args_json_file}"', "command")
    return rest[0], Sidecar(**sidecar.conditions(own["--where"], own["--when"]))


def _check_shapes(found: Document, values: Any, place: document.Place) -> None:
    """Refuses parameters that are no mappings, nested ones included."""
    if not isinstance(values, dict) or not values:
        found.fail(f"{place[-1]}: there are none; a sweep needs at least one", *place)
    for name, spec in values.items():
        if not isinstance(spec, dict):
            hint = "values" if isinstance(spec, list) else "value"
            found.fail(f"{name}: write {name}: {{{hint}: {spec!r}}}", *place, name)
        if "values" in spec and not isinstance(spec["values"], list):
            found.fail(f"{name}: values: {spec['values']!r} is not a list; write [...], or value: ...", *place, name)
        if "parameters" in spec:
            if len(spec) > 1:
                found.fail(f"{name}: nested parameters stand alone, as a mapping", *place, name)
            _check_shapes(found, spec["parameters"], (*place, name, "parameters"))


def _change(found: Document, key: str, value: Any, options: dict[str, Option]) -> None:
    """Puts a value, or values, in the place of a parameter."""
    name = key.replace("-", "_").rstrip("_")
    if name not in options:
        raise UserError(f"{key!r} is no option{did_you_mean(name, options)}", "set")
    parameters = found.value["parameters"]
    for other, spec in parameters.items():
        for item in spec.get("values") or [spec.get("value")]:
            if name in bundle(item):
                raise UserError(f"{key!r} is what the values of {other!r} differ in", "set")
    many = isinstance(value, list) and options[name].type != "list"
    spec = {"values": value} if many else {"value": value}
    try:
        for item in value if many else [value]:
            options[name].check(item)
    except UserError as error:
        raise UserError(f"{key}: {error.message}", "set") from None
    holder = _holder(parameters, name)
    holder[name if name in holder else next((own for own in holder if own.rstrip("_") == name), name)] = spec


def _holder(parameters: dict[str, Any], name: str) -> dict[str, Any]:
    """The mapping, nested or not, that has a parameter; the outermost one where none has."""
    for spec in parameters.values():
        if "parameters" in spec:
            inner = _holder(spec["parameters"], name)
            if any(own.rstrip("_") == name for own in inner):
                return inner
    return parameters


def _method(found: Document) -> str:
    method = found.value.get("method")
    if method not in METHODS:
        place = ("method",) if "method" in found.value else ()
        found.fail(f"method: {method!r} is none of grid, random, bayes{did_you_mean(str(method), METHODS)}", *place)
    return method


def _metric(found: Document) -> Metric | None:
    value = found.value.get("metric")
    if value is None:
        return None
    known = ("name", "goal", "target", "impute", "impute_while_running")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        found.fail("metric: write name and goal", "metric")
    for key in value:
        if key not in known:
            found.fail(f"metric: unknown key {key!r}{did_you_mean(key, known)}", "metric", key)
    name, goal = value["name"], value.get("goal")
    if goal is None:
        if log_keys.rises(name):
            found.fail(f"metric: without goal, W&B would look for the lowest {name}; write goal: maximize", "metric")
        goal = "minimize"
    if goal not in ("minimize", "maximize"):
        found.fail(f"goal: {goal!r} is neither minimize nor maximize", "metric", "goal")
    if value.get("impute", "worst") != "worst":
        found.fail("impute: a failed run counts as the worst; leave it out, or write worst", "metric", "impute")
    if value.get("impute_while_running", "false") not in ("false", False):
        key = "impute_while_running"
        found.fail(f"{key}: running runs have no value yet; leave it out", "metric", key)
    target = value.get("target")
    if target is not None and type(target) not in (int, float):
        found.fail(f"target: {target!r} is no number", "metric", "target")
    return Metric(name, goal, target)


def _run_cap(found: Document) -> int | None:
    cap = found.value.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        found.fail(f"run_cap: {cap!r} is not a whole number of at least 1", "run_cap")
    return cap


def _early(found: Document) -> Hyperband | None:
    spec = found.value.get("early_terminate")
    if spec is None:
        return None
    if not isinstance(spec, dict):
        found.fail("early_terminate: write type: hyperband and min_iter", "early_terminate")
    try:
        return Hyperband.read(spec)
    except UserError as error:
        found.fail(f"early_terminate: {error}", "early_terminate", *([error.option] if error.option else []))


def _parameters(found: Document, options: dict[str, Option]) -> dict[str, Distribution]:
    flat = dict(_flat(found, found.value["parameters"], ("parameters",), ""))
    owners: dict[str, str] = {}
    for name, (distribution, place) in flat.items():
        for option in _options_set(found, name, distribution, place, options):
            if owners.setdefault(option, name) != name:
                found.fail(f"{name}: {option!r} is also set by {owners[option]!r}", *place)
    return {name: distribution for name, (distribution, _) in flat.items()}


def _flat(
    found: Document, values: dict[str, Any], place: document.Place, prefix: str
) -> Iterator[tuple[str, tuple[Distribution, document.Place]]]:
    for name, spec in values.items():
        here = (*place, name)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
            found.fail(f"{name!r} is no name of a parameter", *here)
        if "parameters" in spec:
            yield from _flat(found, spec["parameters"], (*here, "parameters"), f"{prefix}{name}.")
            continue
        try:
            yield f"{prefix}{name}", (distributions.read(spec), here)
        except UserError as error:
            found.fail(f"{name}: {error}", *here, *([error.option] if error.option else []))


def _options_set(
    found: Document, name: str, distribution: Distribution, place: document.Place, options: dict[str, Option]
) -> set[str]:
    """Checks every value of a parameter; the options that it sets."""
    option, touched = options.get(leaf(name)), set()
    ends = distribution.ends()
    listed = place if "values" not in _at(found.value, place) else (*place, "values")
    for index, value in enumerate(ends):
        here = (*listed, index) if listed != place else (*place, "value")
        here = here if not distribution.numeric else place
        if isinstance(value, dict):
            for key, item in bundle(value).items():
                if key not in options:
                    found.fail(f"{name}: {key!r} is no option{did_you_mean(key, options)}", *here, key)
                _check_value(found, name, options[key], item, (*here, key))
            touched |= set(bundle(value))
        elif option is None:
            known = [key for key, item in options.items() if item.identity]
            near = did_you_mean(leaf(name), known)
            found.fail(f"{leaf(name)!r} is no option of the experiment{near}", *place)
        else:
            _check_value(found, name, option, value, here)
            touched.add(option.key)
    labels = [value[LABEL] for value in ends if isinstance(value, dict) and LABEL in value]
    for label in labels:
        if not isinstance(label, str):
            found.fail(f"{name}: the label {label!r} is no text", *place)
        if labels.count(label) > 1:
            found.fail(f"{name}: the label {label!r} is given to several values", *place)
    if option and option.type == "int" and distribution.numeric and _fractional(distribution):
        found.fail(
            f"{name} is a whole number; use distribution: int_uniform, or q_uniform with q: 1, or "
            "q_log_uniform_values with q: 1",
            *place,
        )
    for key in touched:
        if not options[key].identity and len(ends) > 1 and key not in [k for v in ends for k in bundle(v)]:
            found.fail(f"{name} is no part of what identifies a run, so all its values would be the same run", *place)
    return touched


def _fractional(distribution: Distribution) -> bool:
    return any(value != int(value) for value in (distribution.quantile(u) for u in (0.137, 0.391, 0.618, 0.873)))


def _at(value: Any, place: document.Place) -> Any:
    for key in place:
        value = value[key]
    return value


def _check_value(found: Document, name: str, option: Option, value: Any, place: document.Place) -> None:
    if option.key in ENGINES_OWN:
        found.fail(f"{name}: {option.key} is set by `regx sweep` itself; use its own options", *place)
    if isinstance(value, list) and option.type != "list" and place[-1] == "value":
        found.fail(f"{name}: a list of values is written values: {value!r}", *place)
    try:
        option.check(value)
    except UserError as error:
        own = "" if option.key == leaf(name) else f"{option.key}: "
        found.fail(f"{name}: {own}{error.message}", *place)


def _check_method(found: Document, sweep: Sweep) -> None:
    if sweep.method == "grid":
        for name, distribution in sweep.parameters.items():
            if distribution.size() is None:
                found.fail(
                    f"{name}: {distribution.kind} has no end of values, so there is no grid of them; list values, use "
                    "q_uniform, or method: random",
                    "method",
                )
    elif sweep.run_cap is None:
        found.fail(f"method: {sweep.method} never ends; say how many configurations with run_cap", "method")
    if sweep.method == "bayes" and sweep.metric is None:
        found.fail("method: bayes needs a metric to look for", "method")
    if sweep.early and sweep.metric is None:
        found.fail("early_terminate needs a metric", "early_terminate")


def _check_sidecar(found: Document, sweep: Sweep) -> None:
    notes, known = sweep.sidecar, sweep.options
    bundled = any("seed" in bundle(value) for item in sweep.parameters.values() for value in item.ends())
    if notes.seeds and (bundled or any(leaf(name) == "seed" for name in sweep.parameters)):
        found.fail("seeds: the sweep has a parameter seed already; leave one out", "seeds")
    words = dict.fromkeys([*known, "None", "none", "true", "false", LABEL])
    for place, condition in [
        *(((("where", index)), condition) for index, condition in enumerate(notes.where)),
        *(((("when", name)), condition) for name, condition in notes.when.items()),
    ]:
        try:
            condition.check(words)
        except UserError as error:
            unnamed = condition.names() - set(words)
            hint = "; ask for the label of its values" if unnamed & {leaf(name) for name in sweep.parameters} else ""
            found.fail(error.message + hint, *place)
    if notes.when and sweep.method == "bayes":
        found.fail("when: a search by bayes sets every parameter; use method: random", "when")
    for name in notes.when:
        if name not in sweep.parameters:
            found.fail(f"when: {name!r} is no parameter{did_you_mean(name, sweep.parameters)}", "when", name)


def _check_arguments(found: Document, sweep: Sweep) -> None:
    """Refuses values that W&B's agent could not hand on in the way that the command asks for."""
    words = [word for word in found.value["command"] if word.startswith("${args")]
    if "${args_json_file}" in words:
        return
    if words not in (["${args}"], ["${args_no_boolean_flags}"]):
        found.fail(f"{' '.join(words)} is not what regx reads; use ${{args_json_file}}", "command")
    for name, distribution in sweep.parameters.items():
        if "." in name or any(isinstance(value, dict | list) for value in distribution.ends()):
            found.fail(
                f"{name}: W&B's ${{args}} would hand lists and nested values on as Python text; write the command with "
                "regx sweep trial and ${args_json_file}",
                "command",
            )
