"""Training speed of `regx resnet` beside two usual loops: `python benchmarks/resnet_step.py`.

* torchvision: a loop in the way of pytorch/vision's references/classification: its ResNet, Pillow transforms in workers
  of a DataLoader, top-1 and top-5 accuracy and meters that are read after every step.
* Lightning: an experiment in the way of blauigris/jumpstart: a LightningModule with torchmetrics that logs every step;
  with Jumpstart, hooks that reduce the output of every layer, and tables of all units and points on the CPU. It needs
  `pip install "regx[bench]"`; without them only the first is measured.
* regx: its own `Trainer.fit`, with everything that a run does between two steps; no files are written.

All begin with the same weights (checked by their losses) and train on the same images, with SGD and momentum, flipped
and shifted. Each has a process of its own; they take turns of a few steps, so that what slows the machine slows all.
Ratios are medians over the rounds. CPU seconds are those of the training process, without workers of DataLoaders. The
images lie in memory; files are not measured. Peers have their default layout (NCHW); a line of its own gives
torchvision's loop channels_last too. Page faults per step show where the C library gives memory back to the system and
asks for it again.

Five minutes on two cores. `--only status --depth 50 --image-size 224 --batch-size 8` measures what the status of units
and points costs. On a GPU take long turns, of some hundred steps: workers fill their queues while they wait.
"""

import argparse
import contextlib
import importlib
import importlib.util
import logging
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models, transforms

from regx.models import create
from regx.training.build import build
from regx.training.experiments import ResNetConfig

LR, MOMENTUM, DECAY, STRENGTH = 0.01, 0.9, 1e-4, 0.01
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)  # of CIFAR-10
WARM_UP = 3  # steps; in one of them regx measures, once per run, what its regularizers cost
MOST_BYTES = 1_500_000_000  # of random images
KINDS = [(sign, axis) for sign in ("positive", "negative") for axis in ("unit", "point")]  # of constraints
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Dense peak of a chip in FLOP/s, from NVIDIA's data sheets: half precision, and TF32, which convolutions use otherwise.
PEAKS = {"H100 80GB HBM3": (989e12, 495e12), "H200": (989e12, 495e12), "A100": (312e12, 156e12)}

RATIOS = (
    ("plain", "regx_bare", "torchvision"),
    ("plain", "regx_bare", "torchvision_nhwc"),
    ("plain with status", "regx", "torchvision"),
    ("plain", "regx_bare", "lightning"),
    ("Jumpstart and status", "regx_jumpstart", "lightning_jumpstart"),
)
SHARES = (("Lightning", "lightning", "lightning_jumpstart"), ("regx", "regx_bare", "regx_jumpstart"))


class Over(Exception):
    """There is no next turn."""


class Turns:
    """A contender's side of the game: it reports every step, and sleeps in that report while others have their turn.

    Args:
        pipe: to the process that gives the turns.
        device: where the contender trains.
    """

    def __init__(self, pipe: Connection, device: torch.device) -> None:
        self.device, self._pipe = device, pipe

    def ready(self, facts: dict[str, Any]) -> None:
        """Tells that training can begin, and waits for the first turn."""
        self._pipe.send(facts)
        self._sleep()

    def step(self, label: str = "") -> None:
        """Takes note of a step; `label` tells steps of different kinds apart."""
        self._left -= 1
        now = self._clock(synchronize=bool(label) or not self._left)
        seconds = self._spent.setdefault(label, [0.0, 0.0, 0, 0])
        for i in range(3):
            seconds[i] += now[i] - self._start[i]
        seconds[3] += 1
        self._start = now
        if not self._left:
            self._pipe.send((self._spent, self._peak()))
            self._sleep()

    def pause(self) -> None:
        """Stops the clock until `resume()`."""
        self._paused = self._clock()

    def resume(self) -> None:
        """Goes on from `pause()`."""
        self._start = tuple(s + now - p for s, now, p in zip(self._start, self._clock(), self._paused, strict=True))

    def _sleep(self) -> None:
        self._left = self._pipe.recv()
        if not self._left:
            raise Over
        self._spent: dict[str, list[float]] = {}
        self._start = self._clock()

    def _clock(self, *, synchronize: bool = True) -> tuple[float, ...]:
        if synchronize and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def _peak(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Pictures(Dataset[tuple[Any, int]]):
    """Images of the archive, one by one, as torchvision's own datasets give them."""

    def __init__(self, folder: str) -> None:
        with np.load(Path(folder) / "cifar10.npz") as archive:
            self.x, self.y = archive["x_train"], archive["y_train"].reshape(-1).tolist()
        shift, flip = transforms.RandomCrop(self.x.shape[1], padding=4), transforms.RandomHorizontalFlip()
        numbers = transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float), transforms.Normalize(MEAN, STD)
        self.transform = transforms.Compose([shift, flip, *numbers])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.x[row])), self.y[row]


def loader(options: argparse.Namespace, folder: str, device: torch.device) -> DataLoader[tuple[Any, int]]:
    """The peers' batches."""
    how = {"shuffle": True, "drop_last": True, "num_workers": options.workers, "pin_memory": device.type == "cuda"}
    return DataLoader(Pictures(folder), options.batch_size, **how)


def peer_model(options: argparse.Namespace) -> nn.Module:
    """torchvision's network, with regx's stem for small images and its initial weights."""
    torch.manual_seed(0)
    shape = (3, options.image_size, options.image_size)
    ours = create("resnet", input_shape=shape, output_size=10, depth=options.depth)
    model = getattr(models, f"resnet{options.depth}")(num_classes=10)
    stem: Any = ours.get_submodule("conv1")
    model.conv1 = nn.Conv2d(3, 64, stem.kernel_size, stem.stride, stem.padding, bias=False)
    if "maxpool" not in dict(ours.named_children()):
        model.maxpool = nn.Identity()
    model.load_state_dict(ours.state_dict())
    return model


def batch_of_check(options: argparse.Namespace, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch on which all contenders must have the same loss before they train."""
    x = torch.randn(8, 3, options.image_size, options.image_size, generator=torch.Generator().manual_seed(1))
    return x.to(device), torch.arange(8, device=device)


def train_torchvision(options: argparse.Namespace, folder: str, turns: Turns, *, nhwc: bool) -> None:
    """A plain loop, in the way of torchvision's references."""
    device = turns.device
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if nhwc else torch.contiguous_format
    model = peer_model(options).to(device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
    batches = loader(options, folder, device)
    x, y = batch_of_check(options, device)
    with torch.no_grad():
        turns.ready({"loss": F.cross_entropy(model(x), y).item()})
    while True:
        meters: dict[str, list[float]] = {"loss": [], "top1": [], "top5": [], "images per second": []}
        for images, labels in batches:
            start = time.time()
            images = images.to(device, non_blocking=True, memory_format=layout)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, PRECISIONS.get(options.amp), enabled=options.amp != "no"):
                output = model(images)
                loss = F.cross_entropy(output, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            with torch.inference_mode():
                hits = output.topk(5).indices == labels.unsqueeze(1)
                shares = [100 * hits[:, :k].sum() / len(labels) for k in (1, 5)]
            meters["loss"].append(loss.item())
            for name, share in zip(("top1", "top5"), shares, strict=True):
                meters[name].append(share.item())
            meters["images per second"].append(len(labels) / (time.time() - start))
            turns.step()


class NaiveJumpstart:
    """Jumpstart in the way of blauigris/jumpstart: each layer's output is reduced four times, in its hook."""

    def __init__(self, model: nn.Module) -> None:
        self.parts: dict[tuple[str, str], list[Tensor]] = {}
        model.register_forward_pre_hook(lambda module, args: self.parts.update({kind: [] for kind in KINDS}))
        for module in list(model.modules())[:-1]:
            if hasattr(module, "weight") and not isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda module, args, output: self._take(output))  # type: ignore[arg-type]

    def _take(self, x: Tensor) -> None:
        for dim, axis in enumerate(("unit", "point")):
            self.parts["positive", axis].append(F.relu(1 - x.max(dim).values.flatten(1).max(1).values))
            self.parts["negative", axis].append(F.relu(1 + x.min(dim).values.flatten(1).min(1).values))

    @property
    def loss(self) -> Tensor:
        means = {kind: torch.cat(parts).mean() for kind, parts in self.parts.items()}
        return 0.5 * torch.stack(list(means.values())).sum()


def status_metric() -> Any:
    """A torchmetrics metric with tables of all units and points, in the way of blauigris/jumpstart."""
    metric: Any = importlib.import_module("torchmetrics").Metric

    def table(columns: list[Tensor]) -> Tensor:
        return pad_sequence([column.float() for column in columns], padding_value=torch.nan).detach().cpu()

    class Status(metric):
        def __init__(self) -> None:
            super().__init__()
            for name in ("unit", "point", *("_".join(kind) for kind in KINDS)):
                self.add_state(name, default=[], dist_reduce_fx=None)

        def update(self, parts: dict[tuple[str, str], list[Tensor]]) -> None:
            for kind in KINDS:
                getattr(self, "_".join(kind)).append(table(parts[kind]))
            for axis, states in (("unit", self.unit), ("point", self.point)):
                dead = [loss >= 1 for loss in parts["positive", axis]]
                linear = [loss > 1 for loss in parts["negative", axis]]
                neither = [~(a | b) for a, b in zip(dead, linear, strict=True)]
                state = 0 * table(linear) + table(neither) - table(dead)
                if axis == "unit" and states:
                    states[0][(states[0] != state) & ~states[0].isnan()] = 1
                else:
                    states.append(state)

        def compute(self) -> dict[str, Tensor]:
            units, points = self.unit[0], torch.cat(self.point)
            dead = (units == -1).sum() / (~units.isnan()).sum(), (points == -1).float().mean()
            losses = [torch.cat(getattr(self, "_".join(kind))).nanmean() for kind in KINDS]
            return dict(zip(("unit_dead", "point_dead", *map("_".join, KINDS)), (*dead, *losses), strict=True))

    return Status()


def train_lightning(options: argparse.Namespace, folder: str, turns: Turns, *, jumpstart: bool) -> None:
    """A LightningModule in the way of blauigris/jumpstart."""
    logging.disable(logging.INFO)  # its advice: more workers, other loggers
    warnings.simplefilter("ignore")
    lightning: Any = importlib.import_module("lightning.pytorch")
    torchmetrics: Any = importlib.import_module("torchmetrics")

    class Experiment(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = peer_model(options)
            self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=10)
            self.jumpstart = NaiveJumpstart(self.model) if jumpstart else None
            self.status = status_metric() if jumpstart else None

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            output, y = self.model(batch[0]), batch[1]
            loss = F.cross_entropy(output, y)
            self.log("train/loss", loss, prog_bar=True)
            if self.jumpstart is not None:
                penalty = self.jumpstart.loss
                self.log("train/JR_loss", penalty, prog_bar=True)
                self.log("train/scaled_JR_loss", STRENGTH * penalty)
                loss = loss + STRENGTH * penalty
            self.accuracy(output, y)
            self.log("train/acc", self.accuracy, prog_bar=True)
            if self.status is not None and self.jumpstart is not None:
                self.status.update(self.jumpstart.parts)
            return loss

        def on_train_epoch_end(self) -> None:
            if self.status is not None:
                self.log_dict({f"train/jr/{key}": value for key, value in self.status.compute().items()})
                self.status.reset()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), LR, MOMENTUM, weight_decay=DECAY)

    class Report(lightning.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            turns.step()

    experiment = Experiment().to(turns.device)
    x, y = batch_of_check(options, turns.device)
    with torch.no_grad():
        facts = {"loss": F.cross_entropy(experiment.model(x), y).item()}
        if experiment.jumpstart:
            facts["penalty"] = experiment.jumpstart.loss.item()
    with tempfile.TemporaryDirectory() as logs:
        trainer = lightning.Trainer(
            max_epochs=-1,
            devices=1,
            accelerator="gpu" if turns.device.type == "cuda" else "cpu",
            precision={"no": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[options.amp],
            logger=lightning.loggers.CSVLogger(logs),
            callbacks=[Report()],
            **dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
        )
        turns.ready(facts)
        trainer.fit(experiment, loader(options, folder, turns.device))


def train_regx(options: argparse.Namespace, folder: str, turns: Turns, *, alternate: bool = False, **own: Any) -> None:
    """A run of regx; `own` are its options. With `alternate`, every other step measures no status."""
    config = ResNetConfig(
        **{"dataset": "cifar10", "data_dir": folder, "augment": ["flip", "crop(padding=4)"], "drop_last": True},
        **{"depth": options.depth, "batch_size": options.batch_size, "threads": options.threads, "amp": options.amp},
        **{"optimizer": "sgd", "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "decay_norms": True},
        **{"lr_schedule": "constant", "lr_warmup": 0, "epochs": 100_000, "seed": 0},
        **{"channels_last": options.channels_last, **own},
    )
    experiment = build(config, turns.device)
    trainer = experiment.trainer
    x, y = batch_of_check(options, turns.device)
    x = trainer.stepper.laid_out(x)
    with torch.no_grad():
        facts: dict[str, Any] = {"loss": F.cross_entropy(trainer.stepper.forward(x), y).item()}
        if config.lambda_:
            facts["penalty"] = trainer.penalties[0].loss().item()
        if turns.device.type == "cuda":
            with FlopCounterMode(display=False) as counted:
                experiment.model(x)
            facts["flops"] = 3 * counted.get_total_flops() / len(x)  # the backward pass computes twice as much
    turns.ready(facts)
    hooks = {module: (module._forward_pre_hooks, module._forward_hooks) for module in experiment.model.modules()}
    update = trainer.status["train"].update if alternate else None
    measured = True

    def on_step(step: int) -> None:
        nonlocal measured
        turns.step(("without", "with")[measured] if alternate else "")
        if update:
            measured = not measured or step == trainer.steps  # the evaluation wants status
            trainer.status["train"].update = update if measured else lambda: None
            for module, found in hooks.items():
                kept = found if measured else (OrderedDict(), OrderedDict())
                module._forward_pre_hooks, module._forward_hooks = kept
        if step == trainer.steps:  # the epoch's evaluation is no training, and the peers have none
            turns.pause()

    trainer.fit(lambda row: turns.resume(), lambda: None, lambda: False, on_step)


# Name -> title in the table, what trains it, and its own options.
CONTENDERS: dict[str, tuple[str, Callable[..., None], dict[str, Any]]] = {
    "torchvision": ("torchvision's loop", train_torchvision, {"nhwc": False}),
    "torchvision_nhwc": ("torchvision's loop, channels_last", train_torchvision, {"nhwc": True}),
    "lightning": ("Lightning", train_lightning, {"jumpstart": False}),
    "lightning_jumpstart": ("Lightning, naive Jumpstart, status", train_lightning, {"jumpstart": True}),
    "regx_bare": ("regx, no regularizer, no status", train_regx, {"regularizer": [], "log_status": False}),
    "regx": ("regx as it comes (lambda 0, status)", train_regx, {}),
    "regx_jumpstart": ("regx, the same Jumpstart, status", train_regx, {"lambda_": STRENGTH, "hook_at": "layer"}),
    "status": ("regx, status in every other step", train_regx, {"regularizer": [], "alternate": True}),
}


def contend(name: str, options: argparse.Namespace, folder: str, pipe: Connection) -> None:
    """What the process of a contender does."""
    torch.set_num_threads(options.threads)
    turns = Turns(pipe, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    _, train, own = CONTENDERS[name]
    with contextlib.suppress(Over):
        train(options, folder, turns, **own)


def make_images(options: argparse.Namespace, folder: str) -> str:
    """The folder of a CIFAR-10 archive: the user's, or `folder` with random images of the wanted size."""
    if options.data_dir and options.image_size == 32:
        if not (Path(options.data_dir) / "cifar10.npz").is_file():
            raise SystemExit(f"--data-dir {options.data_dir}: there is no cifar10.npz; leave it out for random images")
        return options.data_dir
    batches = 2 * options.rounds * options.steps + WARM_UP + 10
    count = min(batches * options.batch_size * 10 // 9, 50_000, MOST_BYTES // (3 * options.image_size**2))
    arrays = {}
    for part, rows in (("train", count), ("test", options.batch_size)):
        arrays[f"x_{part}"] = np.random.default_rng(0).integers(
            0, 256, (rows, options.image_size, options.image_size, 3), dtype=np.uint8
        )
        arrays[f"y_{part}"] = np.arange(rows) % 10
    np.savez(Path(folder) / "cifar10.npz", allow_pickle=False, **arrays)
    return folder


def play(names: list[str], options: argparse.Namespace, folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives turns; what each contender said of itself, and its rounds: ({label: [wall, CPU, faults, steps]}, peak)."""
    context = multiprocessing.get_context("spawn")
    pipes, facts = {}, {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        context.Process(target=contend, args=(name, options, folder, theirs)).start()
        theirs.close()
    rounds: dict[str, Any] = {name: [] for name in names}
    try:
        facts = {name: pipes[name].recv() for name in names}
        for key in ("loss", "penalty"):
            values = [found[key] for found in facts.values() if key in found]
            if values and max(values) - min(values) > 1e-3 * max(values):
                raise SystemExit(f"the contenders do not compute the same: {key} is {values}")
        for number in range(options.rounds + 1):
            for name in names:
                pipes[name].send((options.steps if number else WARM_UP) * (2 if name == "status" else 1))
                rounds[name].append(pipes[name].recv())
        for name in names:
            pipes[name].send(0)
    except EOFError:
        raise SystemExit("a contender ended early; its error is above") from None
    finally:
        for pipe in pipes.values():
            pipe.close()
    return facts, {name: found[1:] for name, found in rounds.items()}


def show(options: argparse.Namespace, facts: dict[str, Any], rounds: dict[str, Any]) -> None:
    """Prints a table, and ratios."""
    seconds = {
        (name, label): np.array([np.divide(found[label][:3], found[label][3]) for found, _ in turns])
        for name, turns in rounds.items()
        for label in turns[0][0]
    }
    print(f"  {'':38}{'images/s':>10}{'images/CPU s':>14}{'page faults':>13}{'peak memory':>14}")
    for name, turns in rounds.items():
        if name != "status":
            wall, cpu, faults = np.median(seconds[name, ""], axis=0)
            speed = f"{options.batch_size / wall:10.1f}{options.batch_size / cpu:14.1f}"
            print(f"  {CONTENDERS[name][0]:38}{speed}{faults:13.0f}{turns[-1][1] / 2**20:10.0f} MiB")

    def ratio(one: tuple[str, str], other: tuple[str, str]) -> Any:
        return np.median(seconds[other][:, :2] / seconds[one][:, :2], axis=0)

    for title, one, other in RATIOS:
        if one in rounds and other in rounds:
            wall, cpu = ratio((one, ""), (other, ""))
            print(f"  {title}: {wall:.2f}x of {CONTENDERS[other][0]} (CPU time: {cpu:.2f}x)")
    for title, plain, full in SHARES:
        if plain in rounds and full in rounds:
            wall, cpu = 100 * (1 - ratio((full, ""), (plain, "")))
            print(f"  Jumpstart and status take {wall:.1f} % of a step of {title} (CPU time: {cpu:.1f} %)")
    if "status" in rounds:
        wall, cpu = 100 * (ratio(("status", "without"), ("status", "with")) - 1)
        print(f"  status adds {wall:+.1f} % to a step of regx without regularizer (CPU time: {cpu:+.1f} %)")
    if flops := max(found.get("flops", 0.0) for found in facts.values()):
        device = torch.cuda.get_device_name()
        peak = next((peaks[options.amp == "no"] for chip, peaks in PEAKS.items() if chip in device), None)
        print(f"  {flops / 1e9:.2f} GFLOP per image; peak of {device} in FLOP/s: {peak or 'not known here'}")
        for name in [name for name in rounds if peak and name != "status"]:
            rate = options.batch_size * flops / np.median(seconds[name, ""][:, 0])
            print(f"  {CONTENDERS[name][0]}: {100 * rate / peak:.1f} % of it")


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed of regx resnet beside two usual loops.")
    parser.add_argument("--depth", type=int, default=18, choices=(18, 34, 50, 101, 152), help="of the ResNet")
    parser.add_argument("--image-size", type=int, default=32, help="side of the images in pixels (default 32)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step (default 64)")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn (default 2)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each (default 4), after one to warm up")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of an operation (default 1)")
    parser.add_argument("--workers", type=int, default=1, help="workers of the peers' DataLoaders (default 1)")
    parser.add_argument("--amp", choices=("no", *PRECISIONS), default="no", help="precision of forward passes")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="layout in regx")
    parser.add_argument("--data-dir", help="folder with a cifar10.npz, for 32 pixels; without it images are random")
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS), help="contenders")
    options = parser.parse_args()
    there = all(importlib.util.find_spec(name) for name in ("lightning", "torchmetrics"))
    names = [name for name in options.only if there or not name.startswith("lightning")]
    if names != options.only:
        print("Lightning is not measured: pip install 'regx[bench]'")
    with tempfile.TemporaryDirectory() as folder:
        place = "GPU" if torch.cuda.is_available() else f"CPU, {options.threads} thread(s)"
        size = f"{options.batch_size} x 3 x {options.image_size} x {options.image_size}"
        print(f"ResNet-{options.depth}, {size}, amp {options.amp}, {place}")
        print(f"{options.rounds} rounds in which each has {options.steps} steps, in turn")
        show(options, *play(names, options, make_images(options, folder)))


if __name__ == "__main__":
    main()
