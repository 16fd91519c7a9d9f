"""The experiments: a configuration class each, and how one is read from a file."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from regx.errors import UserError, did_you_mean
from regx.models import REGISTRY as MODELS
from regx.models import options_of as options_of_model
from regx.models import resnet_options
from regx.text import named
from regx.training.config import RunConfig
from regx.training.options import MODEL, Option, borrowed, option, options_of, passed_on, redefined


def own_options(config: RunConfig) -> dict[str, Any]:
    """The options of an experiment's own network."""
    mine = [
        item for item in options_of(type(config)) if item.panel == MODEL and item.name not in ("model", "pretrained")
    ]
    return {item.name: getattr(config, item.name) for item in mine}


_rectangular = functools.partial(borrowed, MODELS["rectangular"].parameters, MODEL)
_resnet = functools.partial(passed_on, MODELS["resnet"].parameters, MODEL)
_shared = functools.partial(redefined, RunConfig)


@dataclass(frozen=True, kw_only=True)
class RectangularConfig(RunConfig):
    """A deep network of equal layers on a toy, UCI, scikit-learn or own dataset."""

    experiment: ClassVar[str] = "rectangular"

    depth: int = _rectangular("depth")
    width: int = _rectangular("width")
    activation: str = _rectangular("activation")
    batchnorm: bool = _rectangular("batchnorm")
    skip_connections: int | None = _rectangular("skip_connections")
    dropout: float = _rectangular("dropout")
    init: str = _rectangular("init")
    kernel_size: int = _rectangular("kernel_size")
    head: str = _rectangular("head")
    n_maxpool: int | None = _rectangular("n_maxpool")
    maxpool_mode: str = _rectangular("maxpool_mode")

    def shape(self) -> str:
        return f"{self.depth}x{self.width}"

    def check(self) -> None:
        super().check()
        if self.activation == "identity" and self.hook_at == "activation":
            raise UserError("identity has no activations to hook; add --hook-at layer", "activation")

    def model_name(self) -> str:
        return "rectangular"

    def model_options(self) -> dict[str, Any]:
        return own_options(self)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(RunConfig):
    """A residual network, or another model of images, with or without batch normalization and skip connections."""

    experiment: ClassVar[str] = "resnet"

    model: str = option(
        "resnet",
        "Another network than a ResNet: NAME or NAME(option=value) of `regx list models`, torchvision:NAME or "
        "timm:NAME. --depth and the like are for those that have them.",
        MODEL,
    )
    depth: int | None = _resnet("depth")
    unit_type: str | None = _resnet("unit_type")
    batchnorm: bool | None = _resnet("batchnorm")
    skip_connections: bool | None = _resnet("skip_connections")
    width_multiplier: float | None = _resnet("width_multiplier")
    activation: str | None = _resnet("activation")
    dropout: float | None = _resnet("dropout")
    init: str | None = _resnet("init")
    stem: str | None = _resnet("stem")

    dataset: str = _shared("dataset", "cifar10")
    epochs: int = _shared("epochs", 90)
    batch_size: int | Literal["full"] = _shared("batch_size", 128)
    optimizer: str = _shared("optimizer", "adamw")
    lr: float = _shared("lr", 0.0003)
    weight_decay: float = _shared("weight_decay", 0.01)
    lr_schedule: str = _shared("lr_schedule", "cosine")
    lr_update: str = _shared("lr_update", "step")
    lr_warmup: int | Literal["auto"] = _shared("lr_warmup", "auto")
    stop_at: float | None = _shared("stop_at", None)
    log_speed: bool = _shared("log_speed", True)
    plot_every: int = _shared("plot_every", 10)
    checkpoint_every: float = _shared("checkpoint_every", 300.0)

    def shape(self) -> str:
        if self.model_name() != "resnet":
            return re.sub(r"[^A-Za-z0-9_.]+", "_", self.model).strip("_")
        known = self.model_options()
        off = [word for word, key in (("nobn", "batchnorm"), ("noskip", "skip_connections")) if not known[key]]
        return "-".join([str(known["depth"]), *(["dense"] if known["unit_type"] == "dense" else []), *off])

    def check(self) -> None:
        super().check()
        given = self.model_options()
        if self.model_name() == "resnet":
            resnet_options.check(**{name: given[name] for name in inspect.signature(resnet_options.check).parameters})
        if given.get("activation") == "identity" and self.hook_at == "activation":
            raise UserError("identity has no activations to hook; add --hook-at layer", "activation")

    def is_default(self, item: Option) -> bool:
        parameters = {parameter.name: parameter.default for parameter in options_of_model(self.model_name())}
        return super().is_default(item) or (
            item.name in own_options(self) and getattr(self, item.name) == parameters.get(item.name)
        )

    def as_dict(self) -> dict[str, Any]:
        # The network's options as they are, so that the file says everything.
        return super().as_dict() | {key: self.model_options().get(key) for key in own_options(self)}

    def model_name(self) -> str:
        return self.model if ":" in self.model.partition("(")[0] else named(self.model, "model")[0]

    def model_options(self) -> dict[str, Any]:
        """The model's options: its own defaults, what stands in the text of --model, and the flags."""
        name = self.model_name()
        parameters = {parameter.name: parameter for parameter in options_of_model(name)}
        inside = {} if ":" in name else named(self.model, "model")[1]
        for key in inside:
            if key not in parameters:
                raise UserError(f"{name} has no option {key!r}{did_you_mean(key, parameters)}", "model")
        try:
            options = {key: parameters[key].check(value) for key, value in inside.items()}
        except UserError as error:
            raise UserError(f"{self.model!r}: {error}", "model") from None
        for key, value in own_options(self).items():
            if value is None:
                continue
            if key not in parameters:
                raise UserError(f"is not for {name}, but for resnet", key)
            if options.get(key, value) != value:
                raise UserError(f"{value} is not what {self.model!r} says; leave one out", key)
            options[key] = parameters[key].check(value)
        return {key: parameter.default for key, parameter in parameters.items()} | options


EXPERIMENTS: dict[str, type[RunConfig]] = {"rectangular": RectangularConfig, "resnet": ResNetConfig}


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
    if (path / "config.yaml").is_file():  # a run folder
        path = path / "config.yaml"
    try:
        values = yaml.safe_load(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}", "config") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no `key: value` lines", "config")
    return {str(key): value for key, value in values.items()}
