"""What a run of a sweep costs, alone and among others: `python benchmarks/sweep_step.py`.

Deep dense networks learn a binary classification (two moons: 750 rows to train on, 250 to validate) with batches of 256
(256, 256 and 238), Adam, and cross-entropy plus 0.01 times Jumpstart. Side by side:

* Lightning: one run in the way of blauigris/jumpstart (`peers/lightning_run.py`), which validates, logs and keeps the
  best checkpoint after every epoch; it has no epoch without. Its tables of units and points are emptied after every
  epoch, unlike there, where they grow. It needs `pip install 'regx[bench]'`.
* plain loop: one run of DataLoader, hooks, Adam as it comes, `.item()` after every step (`peers/plain_loop.py`).
* torch.func.vmap: R runs over stacked parameters, with the plain loop's hooks and a fused Adam (`peers/stacked.py`).
* regx, one run: its `Trainer`, as `regx rectangular` uses it.
* regx, vectorised and native: R runs as one program, by batched tensors and by its C++ code.

Before anything is timed, losses and gradients of the same weights and batches are compared: the peers' with those of
`regx.regularizers.Jumpstart` in float64 (1e-10) and float32 (1e-5), and the mean losses of an epoch of regx's programs
with those of the plain loop (1e-5).

A "bare epoch" only trains. A "logged epoch" is followed by a validation, and measures:

    Lightning         loss, penalty, accuracy and status of units and points of both parts; CSV file, best checkpoint
    plain loop, vmap  loss of both parts, accuracy of the validation; no status, no files
    regx              loss, penalty, accuracy and status of units and points of both parts; no files

Each has a process of its own with one thread; they take turns of some epochs, so that what slows the machine slows all.
Processor time is taken, on a GPU real time. The medians over the rounds are printed, per run and step of training;
beside them, how many times faster than the peers that is. R runs of the plain loop or of Lightning take R times as long
as one. Other work on the machine slows many small operations more than the native engine: measure on an idle one.

Four minutes. `--growth FILE.png` draws instead what an epoch takes against the number of runs, depth, width and rows.
"""

import argparse
import itertools
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from peers.agreement import check_peers, check_programs
from peers.lightning_run import missing
from peers.regx_runs import engines
from peers.task import BATCH, Setting, Task
from peers.turns import LIGHTNING, LOOP, PROGRAM, SINGLE, VMAP, Contender, Entry, Kind, contenders, kinds

RUNS = (1, 8, 32, 128, 512)
NETS = [(50, 4), (10, 64), (3, 256)]
MOST_WEIGHTS = 2_000_000  # of all runs of a program, where nobody asks for more
VMAP_RUNS = 32
TURN = 0.3  # seconds


def enter(task: Task, runs: Sequence[int]) -> list[Entry]:
    """The contenders; says which cannot take part."""
    usable, why = engines(task)
    for reason in filter(None, (missing(), why)):
        print(f"  not measured: {reason}")
    entries = [] if missing() else [Entry(LIGHTNING, 1)]
    entries += [Entry(LOOP, 1), Entry(VMAP, min(VMAP_RUNS, max(runs))), Entry(SINGLE, 1)]
    return entries + [Entry(PROGRAM + engine, count) for engine in usable for count in runs]


def measure(setting: Setting, entries: Sequence[Entry], steps: int, rounds: int) -> dict[tuple[Entry, Kind], float]:
    """Microseconds per run and step of a bare and of a logged epoch of every contender."""
    times: dict[tuple[Entry, Kind], list[float]] = {}
    with contenders(setting, entries) as found:
        turns: list[tuple[Contender, Kind]] = [
            (contender, kind) for contender in found for kind in kinds(contender.entry)
        ]
        epochs = [max(1, round(TURN / contender.seconds(kind, 1))) for contender, kind in turns]
        for _ in range(rounds):
            for (contender, kind), count in zip(turns, epochs, strict=True):
                share = count * steps * contender.entry.runs
                times.setdefault((contender.entry, kind), []).append(contender.seconds(kind, count) / share)
    return {key: 1e6 * statistics.median(values) for key, values in times.items()}


def show(entries: Sequence[Entry], found: dict[tuple[Entry, Kind], float]) -> None:
    """Prints the table."""

    def cell(kind: Kind, entry: Entry, peer: str) -> str:
        one, other = found.get((Entry(peer, 1), kind)), found.get((entry, kind))
        return f"{one / other:.1f}x" if one and other else "-"

    print(f"  {'':22}{'':>6}  {'bare epoch: faster than':>25}  {'logged epoch: faster than':>38}")
    print(f"  {'':22}{'runs':>6}  {'us':>10}{'plain loop':>15}  {'us':>10}{'plain loop':>15}{'Lightning':>13}")
    for entry in entries:
        bare = f"{found[entry, 'bare']:10,.0f}" if (entry, "bare") in found else f"{'-':>10}"
        loops = cell("bare", entry, LOOP), cell("logged", entry, LOOP)
        logged = f"{found[entry, 'logged']:10,.0f}{loops[1]:>15}{cell('logged', entry, LIGHTNING):>13}"
        print(f"  {entry.title:22}{entry.runs:6}  {bare}{loops[0]:>15}  {logged}", flush=True)


def net(text: str) -> tuple[int, int]:
    """Layers and units of `50x4`."""
    depth, width = map(int, text.split("x"))
    return depth, width


def fitting(task: Task) -> list[int]:
    """The numbers of runs that are measured where nobody names them: fewer of larger networks."""
    weights = sum(parameter.numel() for parameter in task.model(0).parameters())
    return [count for count in RUNS if count == 1 or count * weights <= MOST_WEIGHTS]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a run of a sweep costs, alone and among others.")
    parser.add_argument("--runs", type=int, nargs="+", help="runs of a program (default 1 8 32 128 512, or fewer)")
    parser.add_argument("--net", type=net, nargs="+", default=NETS, help="layers x units (default 50x4 10x64 3x256)")
    parser.add_argument("--dataset", nargs="+", default=["moons"], choices=("moons", "breast_cancer"), help="data")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default 7)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default cpu)")
    parser.add_argument("--quick", action="store_true", help="one small table of two rounds")
    parser.add_argument("--growth", type=Path, metavar="FILE.png", help="draw a figure of how the times grow instead")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.net, options.rounds = [1, 8], NETS[:1], 2
    torch.set_num_threads(1)
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"the machine is busy (load {busy:.1f}): the numbers are less sure")
    if options.growth:
        from peers.growth import draw  # matplotlib

        draw(options.growth, options.device, options.rounds)
        return
    for dataset, (depth, width) in itertools.product(options.dataset, options.net):
        setting = Setting(dataset, depth, width, options.device)
        task = setting.task()
        sizes = f"{task.rows} + {len(task.data.val)} rows, {depth}x{width}, batch {BATCH}"
        print(f"{dataset} ({sizes}, {options.device}, 1 thread, {options.rounds} rounds in turn)", flush=True)
        check_peers(task)
        check_programs(task)
        entries = enter(task, options.runs or fitting(task))
        show(entries, measure(setting, entries, task.steps, options.rounds))


if __name__ == "__main__":
    main()
