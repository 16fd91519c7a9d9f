"""The experiments: a configuration class each, and how one is read from a file."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from regx.errors import UserError, did_you_mean
from regx.models import REGISTRY as MODELS
from regx.training.config import RunConfig
from regx.training.options import MODEL, borrowed, options_of

_model = functools.partial(borrowed, MODELS["rectangular"].parameters, MODEL)


@dataclass(frozen=True, kw_only=True)
class RectangularConfig(RunConfig):
    """A deep network of equal layers on a toy, UCI, scikit-learn or own dataset."""

    experiment: ClassVar[str] = "rectangular"

    depth: int = _model("depth")
    width: int = _model("width")
    activation: str = _model("activation")
    batchnorm: bool = _model("batchnorm")
    skip_connections: int | None = _model("skip_connections")
    dropout: float = _model("dropout")
    init: str = _model("init")
    kernel_size: int = _model("kernel_size")
    head: str = _model("head")
    n_maxpool: int | None = _model("n_maxpool")
    maxpool_mode: str = _model("maxpool_mode")

    def shape(self) -> str:
        return f"{self.depth}x{self.width}"

    def check(self) -> None:
        super().check()
        if self.activation == "identity" and self.hook_at == "activation":
            raise UserError("identity has no activations to hook; add --hook-at layer", "activation")

    def model_options(self) -> dict[str, Any]:
        """What `regx.models.create("rectangular", ...)` takes."""
        return {item.name: getattr(self, item.name) for item in options_of(type(self)) if item.panel == MODEL}


EXPERIMENTS: dict[str, type[RunConfig]] = {"rectangular": RectangularConfig}


def from_dict(values: dict[str, Any], experiment: str | None = None) -> RunConfig:
    """Builds the configuration that `values` (spelled as in files) describes.

    Raises:
        UserError: an unknown key (with the nearest name), an illegal value, or another experiment than asked for.
    """
    values = {key: value for key, value in values.items() if key != "experiment"} | (
        {"experiment": values.get("experiment", experiment)}
    )
    found = values.pop("experiment")
    if not isinstance(found, str) or found not in EXPERIMENTS:
        raise UserError(f"unknown experiment {found!r}{did_you_mean(str(found), EXPERIMENTS)}", "experiment")
    if experiment not in (None, found):
        raise UserError(f"the configuration is for `regx {found}`, not `regx {experiment}`", "config")
    config = EXPERIMENTS[found]
    names = {o.key: o.name for o in options_of(config)}
    for key in values:
        if key not in names:
            raise UserError(f"unknown key {key!r} in the configuration{did_you_mean(str(key), names)}", "config")
    return config(**{names[key]: value for key, value in values.items()})


def read(path: Path) -> dict[str, Any]:
    """Reads a YAML file of options; `-` is standard input.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}", "config") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no `key: value` lines", "config")
    return {str(key): value for key, value in values.items()}
