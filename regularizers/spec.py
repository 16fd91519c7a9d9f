"""The text form of a regularizer: `name`, `name=1e-4` or `name(option=value, option=value)=1e-4`."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regx.errors import UserError, did_you_mean
from regx.regularizers import REGISTRY, strength
from regx.text import options_in


@dataclass(frozen=True)
class Spec:
    """What a text says.

    Attributes:
        name: the regularizer's name in the registry.
        options: its options, checked.
        strength: what stands behind the last `=`; None where nothing does.
        schedule: options of the strength (`regx.regularizers.strength`), checked.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    strength: float | None = None
    schedule: dict[str, Any] = field(default_factory=dict)


def parse(text: str) -> Spec:
    """Reads the text form of a regularizer.

    Besides its own options every regularizer takes those of its strength: schedule, warmup, start, end, ... Commas
    within brackets belong to a value: `group_lasso(groups=blocks(2,4), include=layer1.*|layer2.*)`.

    Args:
        text: what somebody typed.

    Raises:
        UserError: the text does not have this form, or names a regularizer, option or value that does not exist, or the
            strength is not a finite number of at least 0.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*(?:=([^()]*))?", text, flags=re.DOTALL)
    if match is None:
        raise UserError(f"cannot read {text!r}; write name, name=0.01 or name(option=value)=0.01", "regularizer")
    name, inside, behind = match.groups()
    info = REGISTRY[name]
    given = options_in(inside or "", text, "regularizer")
    own = {parameter.name for parameter in info.parameters}
    options = {key: value for key, value in given.items() if key in own}
    shared = {parameter.name for parameter in strength.PARAMETERS}
    for option in given:
        if option not in own | shared:
            near = did_you_mean(option, sorted(own | shared))
            raise UserError(f"{text!r}: {name} has no option {option!r}{near}", "regularizer")
    try:
        checked = info.check(options)
        schedule = {p.name: p.check(given[p.name]) for p in strength.PARAMETERS if p.name in given.keys() - own}
    except UserError as error:
        raise UserError(f"{text!r}: {error}", "regularizer") from None
    return Spec(name, checked, None if behind is None else _number(behind.strip(), text), schedule)


def inlined(text: str) -> str:
    """The text with the tree of a `config=FILE` written out, so that it says everything by itself.

    Raises:
        UserError: the file cannot be read, or is not YAML.
    """
    config = parse(text).options.get("config")
    if config is None or _is_yaml(config):
        return text
    import yaml

    try:
        tree = yaml.safe_dump(read_tree(config), default_flow_style=True, sort_keys=False, width=math.inf)
    except UserError as error:
        raise UserError(f"{text!r}: {error}", "regularizer") from None
    written = f"config={tree.strip()}"
    return re.sub(r"config\s*=\s*" + re.escape(config), lambda match: written, text, count=1)


def read_tree(config: str) -> Any:
    """Reads a YAML tree from a file, or from the text itself where that begins with a brace or has several lines.

    Raises:
        UserError: the file cannot be read, or is not YAML.
    """
    import yaml

    text = config
    if not _is_yaml(config):
        try:
            text = Path(config).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UserError(
                f"cannot read {config!r} ({why}); give a YAML file or a mapping like"
                " {type: layerwise, groups: base_level, norm: L1, lambda: 1}",
                "config",
            ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read the YAML: {' '.join(str(error).split())}", "config") from None


def _is_yaml(config: str) -> bool:
    return config.lstrip().startswith("{") or "\n" in config


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(f"strength {text!r} in {whole!r} is not a finite number of at least 0", "regularizer")
    return value
