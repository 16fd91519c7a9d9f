"""What a run is: the options that every experiment shares, in a frozen dataclass.

These classes (those of the experiments are in `regx.training.experiments`) are the only definition of an option. The
command line, configuration files, `config.yaml` in the run folder, the W&B config and the run's hash come from them.
Nothing heavy is imported here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from regx.data import IMAGE_OPTIONS
from regx.data import OPTIONS as DATA_OPTIONS
from regx.data import REGISTRY as DATASETS
from regx.errors import UserError
from regx.parameters import Bounds
from regx.regularizers import REGISTRY as REGULARIZERS
from regx.regularizers import parse, strength
from regx.regularizers.spec import inlined
from regx.training import identity, penalty_config, schedules
from regx.training.options import (
    DATA,
    HARDWARE,
    MODEL,
    OPTIMISATION,
    OUTPUT,
    REGULARIZER,
    Option,
    borrowed,
    option,
    options_of,
)
from regx.training.penalty_config import PenaltyConfig

_data = functools.partial(borrowed, (*DATA_OPTIONS, *IMAGE_OPTIONS), DATA)
_jumpstart = functools.partial(borrowed, REGULARIZERS["jumpstart"].parameters, REGULARIZER)
_strength = functools.partial(borrowed, strength.PARAMETERS, REGULARIZER)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Options that every experiment shares."""

    experiment: ClassVar[str]

    dataset: str = option(
        "moons",
        "Name of a dataset (`regx list datasets`), `uci:ID`, `uci:NAME`, a CSV/parquet file, or a folder of images.",
        DATA,
    )
    target: str | None = _data("target")
    task: str = _data("task")
    n_samples: int = _data("n_samples")
    noise: float = _data("noise")
    val_size: float | None = _data("val_size")
    test_size: float | None = _data("test_size")
    protocol: str = _data("protocol")
    standardize: bool = _data("standardize")
    subset: int | None = _data("subset")
    image_size: int | None = _data("image_size")
    augment: list[str] = _data("augment")
    mixup: float = option(
        0.0, "Mix pairs of images, in parts drawn from Beta(X, X); 0 does not.", DATA, bounds=Bounds(0, 100)
    )
    cutmix: float = option(
        0.0,
        "Paste a part of one image into another, its area drawn from Beta(X, X); with --mixup, either in turn.",
        DATA,
        bounds=Bounds(0, 100),
    )
    stream: str = _data("stream")
    corrupt: str = _data("corrupt")
    workers: int | Literal["auto"] = _data("workers", identity=False)
    data_seed: int | None = option(
        None,
        "Seed of the split and of toy points, when it should differ from --seed.",
        DATA,
        bounds=Bounds(0, 2**32 - 1),
    )
    data_dir: str | None = option(
        None, "Folder of datasets (default: $REGX_DATA, else the user's cache folder).", DATA, identity=False
    )

    pretrained: str | None = option(
        None,
        "Begin with these weights: a checkpoint (best.pt of a run, or a state_dict), or `torchvision` for its own. A "
        "last layer for other classes starts anew.",
        MODEL,
    )

    regularizer: list[str] = option(
        ["jumpstart"],
        "Penalty, mask or gates, as NAME, NAME(option=value) or NAME(option=value)=strength; may be repeated (see "
        "`regx list regularizers`). Without strength it has that of --lambda; the --lambda-... options below are for "
        "every one that does not name its own, as in l1(schedule=linear, prox=true)=1e-4.",
        REGULARIZER,
    )
    lambda_: float = option(
        0.0,
        "Strength of every --regularizer that does not name its own. 0 trains plainly.",
        REGULARIZER,
        bounds=Bounds(0),
    )
    optimize: str = option(
        "subgradient",
        "How penalties of weights are trained on: by their (sub)gradient, which makes weights small, or by a proximal "
        "step after the optimiser's (SGD, Adam, AdamW), which makes exact zeros.",
        REGULARIZER,
        choices=("subgradient", "prox"),
    )
    lambda_schedule: str = _strength("schedule")
    lambda_other_end: float = _strength("other_end")
    lambda_cycle_length: int | None = _strength("cycle_length")
    lambda_oscillate: bool = _strength("oscillate")
    lambda_gamma: float = _strength("gamma")
    lambda_warmup: int = _strength("warmup")
    lambda_start: int = _strength("start")
    lambda_end: int | None = _strength("end")
    lambda_every: int = _strength("every")
    lambda_clip: float | None = _strength("clip")
    target_sparsity: float | None = _strength("target_sparsity")
    mode: str = _jumpstart("mode")
    aggr: str = _jumpstart("aggr")
    tie_breaking: str = _jumpstart("tie_breaking")
    sign_balance: float = _jumpstart("sign_balance")
    positive_margin: float = _jumpstart("positive_margin")
    negative_margin: float = _jumpstart("negative_margin")
    hook_at: str = _jumpstart("hook_at")
    skip_last: bool = _jumpstart("skip_last")
    skip_batchnorm: bool = _jumpstart("skip_batchnorm")
    global_batch: bool = _jumpstart("global_batch")
    task_loss: bool = option(True, "Train on the task loss; without it only the penalty is minimised.", REGULARIZER)

    epochs: int = option(4000, "Passes over the training rows.", OPTIMISATION, bounds=Bounds(1))
    batch_size: int | Literal["full"] = option(
        256,
        "Rows per step, of all devices together, or `full` for one step per epoch.",
        OPTIMISATION,
        bounds=Bounds(1),
        words=("full",),
    )
    accumulate: int = option(
        1,
        "Split every batch into this many passes, whose gradients are added up; batch normalization and Jumpstart see "
        "each part by itself.",
        OPTIMISATION,
        bounds=Bounds(1),
    )
    drop_last: bool = option(False, "Leave out a last batch that is smaller than the others.", OPTIMISATION)
    optimizer: str = option("adam", "Update rule.", OPTIMISATION, choices=("adam", "adamw", "sgd"))
    lr: float = option(0.003, "Learning rate.", OPTIMISATION, bounds=Bounds(above=0))
    weight_decay: float = option(
        0.0,
        "Decay of weights (biases and norms excluded): decoupled in AdamW, an L2 gradient in Adam and SGD.",
        OPTIMISATION,
        bounds=Bounds(0),
    )
    decay_norms: bool = option(False, "Decay biases and norms too.", OPTIMISATION)
    momentum: float = option(0.0, "Momentum of SGD.", OPTIMISATION, bounds=Bounds(0, 0.9999))
    nesterov: bool = option(False, "Nesterov momentum for SGD.", OPTIMISATION)
    lr_schedule: str = option(
        "constant",
        "Learning rate over epochs (`regx list schedules`).",
        OPTIMISATION,
        choices=tuple(schedules.REGISTRY.rows),
    )
    lr_update: str = option(
        "epoch",
        "Whether the schedule moves after every epoch or after every step.",
        OPTIMISATION,
        choices=("epoch", "step"),
    )
    lr_warmup: int | Literal["auto"] = option(
        0,
        "Epochs of linear warm-up from 1e-5 of the learning rate; auto is 5, or a tenth of a shorter run.",
        OPTIMISATION,
        bounds=Bounds(0),
        words=("auto",),
    )
    lr_milestones: str | None = option(
        None, "Epochs at which `multistep` multiplies the rate by --lr-gamma, as 100,150.", OPTIMISATION
    )
    lr_gamma: float = option(
        0.1, "Factor of `multistep`, `step`, `exponential` and `plateau`.", OPTIMISATION, bounds=Bounds(above=0, high=1)
    )
    lr_cycle_length: int | None = option(
        None,
        "Epochs of a cycle of `cosine`, `restarts`, `cyclic` and `step` (default: all epochs after warm-up).",
        OPTIMISATION,
        bounds=Bounds(1),
    )
    lr_cycle_mult: int = option(
        1, "Each cycle of `restarts` is this many times longer.", OPTIMISATION, bounds=Bounds(1)
    )
    lr_cycle_mode: str = option(
        "triangular2", "Shape of `cyclic`.", OPTIMISATION, choices=("triangular", "triangular2", "exp_range")
    )
    lr_min: float = option(0.0, "Lowest rate of a schedule.", OPTIMISATION, bounds=Bounds(0))
    lr_patience: int = option(
        10, "Logged epochs without a better monitored metric before `plateau` acts.", OPTIMISATION, bounds=Bounds(0)
    )
    grad_clip: float | None = option(
        None, "Clip the norm of the gradient to this.", OPTIMISATION, bounds=Bounds(above=0)
    )
    ema: float = option(
        0.0,
        "Validate, test and keep an exponential moving average of the weights with this factor per step (0.999, say); "
        "weights that are exactly zero stay so.",
        OPTIMISATION,
        bounds=Bounds(0, 0.999999),
    )
    label_smoothing: float = option(
        0.0, "Label smoothing of the classification loss.", OPTIMISATION, bounds=Bounds(0, 0.99)
    )
    stop_at: float | None = option(
        1.0, "End early when the validation metric (accuracy, R2) reaches this; none to go on.", OPTIMISATION
    )
    patience: int | None = option(
        None, "End early after N logged epochs without a better validation metric.", OPTIMISATION, bounds=Bounds(1)
    )
    fast_dev_run: bool = option(
        False, "One training step, one validation, one test: does everything fit together?", OPTIMISATION
    )

    log_every: int = option(1, "Epochs between validations and rows of metrics.csv.", OUTPUT, bounds=Bounds(1))
    log_sparsity: str = option(
        "auto",
        "Measure which share of weights, filters, rows, ... is zero; auto does where a regularizer makes zeros.",
        OUTPUT,
        choices=("auto", "yes", "no"),
    )
    log_blocks: str | None = option(
        None, "Also measure the share of zero blocks, as blocks(4,2): 4 outputs by 2 inputs, kernels whole.", OUTPUT
    )
    log_speed: bool = option(
        False,
        "Write speed.csv: samples per second, memory, and the share of a pass that the regularizers take.",
        OUTPUT,
        identity=False,
    )
    log_status: bool = option(True, "Measure which units and points are dead, linear or nonlinear.", OUTPUT)
    plots: bool = option(True, "Draw the run's figures into its plots folder at the end.", OUTPUT, identity=False)
    plot_status: bool = option(False, "Also draw unit and point status during training.", OUTPUT, identity=False)
    plot_every: int = option(500, "Epochs between those drawings.", OUTPUT, bounds=Bounds(1), identity=False)
    plot_points: int = option(
        200, "Points (rows) in a drawing of point status.", OUTPUT, bounds=Bounds(1), identity=False
    )
    checkpoint_every: float = option(
        10.0,
        "Seconds between checkpoints, in the middle of an epoch too; 0 after every epoch.",
        OUTPUT,
        bounds=Bounds(0),
        identity=False,
    )
    run_dir: str = option("runs", "Parent of run folders.", OUTPUT, identity=False)
    wandb: str = option(
        "auto",
        "Weights & Biases: auto is online when you are logged in and the server answers, else offline.",
        OUTPUT,
        choices=("auto", "online", "offline", "disabled"),
        identity=False,
    )
    project: str = option("regx", "W&B project.", OUTPUT, identity=False)
    entity: str | None = option(None, "W&B user or team.", OUTPUT, identity=False)
    group: str | None = option(None, "W&B group of runs.", OUTPUT, identity=False)
    tags: list[str] = option([], "W&B tag; may be repeated.", OUTPUT, identity=False)
    name: str | None = option(None, "W&B display name (default: the run folder's).", OUTPUT, identity=False)

    seed: int = option(
        42,
        "Seed of the weights, the batch order, dropout and (without --data-seed) the data.",
        HARDWARE,
        bounds=Bounds(0, 2**32 - 1),
    )
    devices: str = option(
        "auto",
        "auto, cpu, cuda, cuda:N, how many GPUs (0 is the CPU), or cpu:N for N processes on the CPU. Several train one "
        "model together; on several machines start `torchrun ... -m regx` instead.",
        HARDWARE,
        identity=False,
    )
    engine: str = option(
        "single",
        "How steps are computed: single trains any network; vectorised trains one run or many of a sweep at once, by "
        "fast code of its own for dense rectangular networks and by vmap for others; native compiles it; auto takes "
        "the fastest that can.",
        HARDWARE,
        choices=("single", "vectorised", "native", "auto"),
        identity=False,
    )
    amp: str = option(
        "no",
        "Precision of forward passes: no is float32; bf16 and fp16 are faster on GPUs, and slower on most CPUs.",
        HARDWARE,
        choices=("no", "bf16", "fp16"),
    )
    matmul: str = option(
        "highest",
        "Precision of float32 matrix products on GPUs (`high` is TF32).",
        HARDWARE,
        choices=("highest", "high", "medium"),
    )
    channels_last: bool = option(
        True, "Lay images out with channels last, which convolutions are faster on.", HARDWARE, identity=False
    )
    compile: bool = option(
        False, "Compile the network with torch.compile: minutes at the start, faster steps on GPUs.", HARDWARE
    )
    threads: int | Literal["auto"] = option(
        "auto",
        "CPU threads of an operation; auto is 1 for small networks, which more would slow down.",
        HARDWARE,
        bounds=Bounds(1),
        words=("auto",),
        identity=False,
    )
    deterministic: bool = option(False, "Use only deterministic algorithms (the CPU's always are).", HARDWARE)

    def __post_init__(self) -> None:
        for item in options_of(type(self)):
            object.__setattr__(self, item.name, item.check(getattr(self, item.name)))
        if self._own_data():
            object.__setattr__(self, "dataset", identity.absolute(self.dataset))
        if self.pretrained:
            object.__setattr__(self, "pretrained", identity.marked(self.pretrained))
        # A tree in a file becomes part of the configuration, and so of the run's hash.
        object.__setattr__(self, "regularizer", [inlined(text) for text in self.regularizer])
        self.check()

    def check(self) -> None:
        """Rules between options; raises `UserError`."""
        val_size, test_size = ((0.2 if size is None else size) for size in (self.val_size, self.test_size))
        if val_size + test_size > 0.9:
            raise UserError(f"{val_size:g} + --test-size {test_size:g} leaves too few rows to train on", "val_size")
        if not re.fullmatch(r"auto|cpu(:[1-9]\d*)?|cuda(:\d+)?|\d+", self.devices):
            raise UserError(f"{self.devices!r} is not auto, cpu, cpu:N, cuda, cuda:N or a number of GPUs", "devices")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum > 0):
            raise UserError("needs --optimizer sgd and --momentum above 0", "nesterov")
        if self.momentum and self.optimizer != "sgd":
            raise UserError(f"is for --optimizer sgd, not {self.optimizer}", "momentum")
        if self.decay_norms and not self.weight_decay:
            raise UserError("there is nothing to decay without --weight-decay", "decay_norms")
        if self.batch_size != "full" and self.accumulate > int(self.batch_size):
            raise UserError(
                f"{self.accumulate} passes are more than the {self.batch_size} rows of a batch", "accumulate"
            )
        if self.plot_status and not self.log_status:
            raise UserError("draws what --no-log-status does not measure", "plot_status")
        if self.log_blocks is not None and self.log_sparsity == "no":
            raise UserError("needs sparsity to be measured, not --log-sparsity no", "log_blocks")
        schedules.check(self)  # type: ignore[arg-type]
        penalties = self.penalties()  # which reads and checks every --regularizer
        if not self.task_loss and not any(
            penalty_config.has_loss(REGULARIZERS[p.name]) and p.strength.peak > 0 for p in penalties
        ):
            raise UserError("without it and without a penalty above 0 there is nothing to train on", "task_loss")
        if self.lambda_ and all(parse(text).strength is not None for text in self.regularizer):
            raise UserError("every --regularizer names its own strength", "lambda_")
        penalty_config.check(self, {penalty.name for penalty in penalties})  # type: ignore[arg-type]

    def penalties(self) -> list[PenaltyConfig]:
        """The regularizers with their options and strengths.

        Raises:
            UserError: a text that cannot be read, or options that exclude each other.
        """
        return penalty_config.read(self)  # type: ignore[arg-type]

    def _own_data(self) -> bool:
        """Whether the dataset is a file or folder of the user's that is there."""
        return self.dataset not in DATASETS and Path(self.dataset).expanduser().exists()

    def is_default(self, item: Option) -> bool:
        """Whether an option is what it is where nobody sets it."""
        return getattr(self, item.name) == item.default

    def as_dict(self) -> dict[str, Any]:
        """Every option under its spelling in files."""
        return {"experiment": self.experiment} | {o.key: getattr(self, o.name) for o in options_of(type(self))}

    def as_yaml(self) -> str:
        """The whole configuration as a YAML document that `--config` reads back."""
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same ten times faster, where libyaml is there
        return yaml.dump(self.as_dict(), Dumper=dumper, sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What the run's numbers depend on: the options that differ from their defaults, and a data file's content.

        Defaults are left out so that a new option does not rename old runs.
        """
        changed = {
            o.key: getattr(self, o.name) for o in options_of(type(self)) if o.identity and not self.is_default(o)
        }
        if self._own_data():
            changed["dataset"] = identity.of_data(Path(self.dataset))
        if self.pretrained:
            changed["pretrained"] = identity.unmarked(self.pretrained)[1] or self.pretrained
        return {"experiment": self.experiment} | changed

    def hash(self) -> str:
        """Eight hex digits of the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]

    def run_name(self) -> str:
        """Name of the run folder: what a person looks for, then the hash."""
        stem = Path(self.dataset).stem if "/" in self.dataset or "." in self.dataset else self.dataset
        slug = re.sub(r"[^A-Za-z0-9_]+", "_", stem).strip("_")[:40]
        return f"{self.experiment}-{slug}-{self.shape()}-{self.penalty_name()}-seed{self.seed}-{self.hash()}"

    def penalty_name(self) -> str:
        """The regularizers in a few letters, for the run's name."""
        return self.penalty_title().replace(" + ", "+").replace("lambda ", "lambda").replace(" ", "_")[:60]

    def penalty_title(self) -> str:
        """The regularizers as a figure's title names them."""
        penalties = self.penalties()
        if not penalties:
            return "plain"
        if [penalty.name for penalty in penalties] == ["jumpstart"]:
            return f"lambda {penalties[0].strength.base:g}"
        return " + ".join(f"{penalty.name} {penalty.strength.base:g}" for penalty in penalties)

    def measures_sparsity(self) -> bool:
        """Whether the run counts zeros."""
        if self.log_sparsity != "auto":
            return self.log_sparsity == "yes"
        makers = [p for p in self.penalties() if REGULARIZERS[p.name].facts["zeros"] != "none"]
        return self.log_blocks is not None or any(penalty.strength.peak > 0 for penalty in makers)

    def shape(self) -> str:
        """The network in a few letters, for the run's name."""
        raise NotImplementedError

    def data_options(self) -> dict[str, Any]:
        """The dataset's options, as `regx.data.create` takes them."""
        names = [option.name for option in (*DATA_OPTIONS, *IMAGE_OPTIONS) if option.name != "seed"]
        seed = self.seed if self.data_seed is None else self.data_seed
        return {"seed": seed} | {name: getattr(self, name) for name in names}

    def model_name(self) -> str:
        """The model's name, as `regx.models.create` takes it."""
        raise NotImplementedError

    def model_options(self) -> dict[str, Any]:
        """The model's options, as `regx.models.create` takes them.

        Raises:
            UserError: an option that the model does not have.
        """
        raise NotImplementedError
