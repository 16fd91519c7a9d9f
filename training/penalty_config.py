"""The regularizers of a configuration: read from their texts, with what the options of the run say of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regx.errors import UserError
from regx.registry import Info
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.regularizers import Strength, parse, strength
from regx.training.options import REGULARIZER, options_of

if TYPE_CHECKING:
    from regx.training.config import RunConfig


@dataclass(frozen=True)
class PenaltyConfig:
    """One regularizer of a run.

    Attributes:
        text: what somebody typed.
        name: its name in the registry.
        options: its own options.
        strength: its strength over the epochs.
    """

    text: str
    name: str
    options: dict[str, Any]
    strength: Strength


def makes_zeros(info: Info) -> bool:
    """Whether a stronger penalty leads to more exact zeros; of a mask, the strength says how many."""
    return info.facts["zeros"] != "none" and info.facts["kind"] != "masks"


def has_loss(info: Info) -> bool:
    return info.facts["kind"] != "masks"


def labels(penalties: list[PenaltyConfig]) -> list[str]:
    """Names of the penalties' losses in the log; one that occurs again has its number in the list."""
    found: list[str] = []
    for number, item in enumerate(penalties, start=1):
        label = "JR_loss" if item.name == "jumpstart" else f"{item.name}_loss"
        found.append(f"{label}_{number}" if label in found else label)
    return found


def has_prox(info: Info) -> bool:
    """Whether it has a proximal step that makes exact zeros."""
    return makes_zeros(info) and any(parameter.name == "prox" for parameter in info.parameters)


def read(config: RunConfig) -> list[PenaltyConfig]:
    """The regularizers with their options and strengths.

    Raises:
        UserError: a text that cannot be read, or options that exclude each other.
    """
    shared = {item.name: getattr(config, item.name) for item in options_of(type(config)) if item.panel == REGULARIZER}
    schedule: dict[str, Any] = {
        parameter.name: shared.get(f"lambda_{parameter.name}", shared.get(parameter.name))
        for parameter in strength.PARAMETERS
    }
    found = []
    for text in config.regularizer:
        spec = parse(text)
        info = REGULARIZERS[spec.name]
        own = {parameter.name for parameter in info.parameters}
        options = {key: value for key, value in shared.items() if key in own} | spec.options
        if has_prox(info) and config.optimize == "prox":
            options = {"prox": True} | options
        idle = {
            "target_sparsity": not makes_zeros(info),
            "clip": not has_loss(info) or bool(options.get("prox")),
            # A text with a schedule of its own does not want the other one's shape.
            **dict.fromkeys(("other_end", "cycle_length", "oscillate", "gamma"), "schedule" in spec.schedule),
        }
        common = {key: value for key, value in schedule.items() if not idle.get(key)}
        if "target_sparsity" in spec.schedule and not makes_zeros(info):
            raise UserError(f"{text!r}: target_sparsity is for penalties and gates that make zeros", "regularizer")
        base = config.lambda_ if spec.strength is None else spec.strength
        try:
            values = Strength(base, **(common | spec.schedule))
            values.check(config.epochs)
        except UserError as error:
            own |= {*spec.schedule, *(["strength"] if spec.strength is not None else [])}
            if error.option in own:
                raise UserError(f"{text!r}: {error}", "regularizer") from None
            flag = {"strength": "lambda_", "target_sparsity": "target_sparsity"}
            raise UserError(error.message, flag.get(error.option or "", f"lambda_{error.option}")) from None
        found.append(PenaltyConfig(text, spec.name, options, values))
    return found


def check(config: RunConfig, used: set[str]) -> None:
    """Refuses options that have no effect on any of the regularizers in use; raises `UserError`."""
    # hook_at, skip_last and skip_batchnorm also say where unit and point status is measured.
    margins = ("positive_margin", "negative_margin")
    only_jumpstart = ("mode", "aggr", "tie_breaking", "sign_balance", *margins, "global_batch")
    able = {"optimize": has_prox, "target_sparsity": makes_zeros, "lambda_clip": has_loss}
    able |= dict.fromkeys(only_jumpstart, lambda row: row.name == "jumpstart")
    for item in options_of(type(config)):
        if item.name in able and getattr(config, item.name) != item.default:
            known = [row.name for row in REGULARIZERS.rows.values() if able[item.name](row)]
            if not used & set(known):
                raise UserError(f"is for none of this run's regularizers, but for {', '.join(known)}", item.name)
