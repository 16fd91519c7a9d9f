"""Two processes that train together are one process with the same batches."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regx.training import distributed
from regx.training.build import Experiment, build
from regx.training.distributed import World
from regx.training.experiments import from_dict
from regx.training.folder import load_checkpoint, save_checkpoint

NET = {"depth": 20, "width_multiplier": 0.5, "batchnorm": False, "regularizer": []}
DATA = {"experiment": "resnet", "dataset": "fake", "image_size": 8, "n_samples": 100, "batch_size": 16, "epochs": 2}
RATE = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.001}
TABLE = {"experiment": "rectangular", "depth": 4, "width": 6, "epochs": 2, "optimizer": "sgd"}
GLOBAL = "jumpstart(global_batch=true)=0.2"

# 70 images, of 16: a last batch of 6, so 8 + 8 and 3 + 3 rows; of 15: one of 10, so 8 + 7 and 5 + 5.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ragged": {"batch_size": 15},
    "accumulated": {"accumulate": 2, "log_speed": True},
    "augmented": {"augment": ["flip", "crop(padding=2)"]},
    "jumpstart": {"regularizer": [GLOBAL]},
    "ragged jumpstart": {"regularizer": [GLOBAL], "batch_size": 15},
    "accumulated ragged jumpstart": {"regularizer": [GLOBAL], "accumulate": 2, "batch_size": 15},
    "proximal l1": {"regularizer": ["l1(prox=true)=0.001"]},
    "clipped l1": {"regularizer": ["l1(clip=1e6)=0.001"], "batch_size": 15},
    "gates": {"regularizer": ["l0(droprate_init=0.3)=1"], "lr": 0.02},
    "averaged": {"ema": 0.9, "grad_clip": 0.5},
}
CONFIGS = {name: DATA | NET | RATE | case for name, case in CASES.items()}
# Some targets are not trained on; R2 is that of the rest.
CONFIGS["regression"] = TABLE | {"dataset": "diabetes", "batch_size": 100, "drop_last": True, "regularizer": []}
OTHERS = {
    "apart": DATA | NET | RATE | {"regularizer": ["jumpstart=0.2"], "batch_size": 70, "epochs": 1},
    "batchnorm": TABLE | {"n_samples": 120, "batchnorm": True, "batch_size": "full", "epochs": 1, "lambda": 0.0},
}
BROKEN = DATA | NET | RATE | {"regularizer": [GLOBAL], "batch_size": 8, "augment": ["flip"]}
NORMALIZED = TABLE | {"n_samples": 120, "batchnorm": True, "batch_size": 18, "log_every": 2, "lambda": 0.0}
STOP = (2, 3)  # epoch and step at which it is broken off


def fit(built: Experiment, stop: bool = False) -> dict[str, Any]:
    """Trains to the end, or to `STOP`; rows, weights and buffers."""
    rows: list[dict[str, float]] = []
    trainer = built.trainer
    ended = trainer.fit(rows.append, lambda: None, lambda: stop and (trainer.epoch, trainer.step) == STOP)
    assert ended == ("interrupted" if stop else "epochs")
    return {"rows": rows, "state": built.model.state_dict(), "own": [p.detach() for p in trainer.stepper.own]}


def work(folder: Path) -> None:
    """What each of the processes does."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    device = torch.device("cpu")
    with distributed.joined(device) as world:
        for name, values in (CONFIGS | OTHERS).items():
            found[name] = fit(build(from_dict(values), device, world))
        found["normalized"] = fit(build(from_dict(NORMALIZED), device, world))
        for name, values in {"broken": BROKEN, "broken normalized": NORMALIZED}.items():
            built = build(from_dict(values), device, world)
            found[name] = fit(built, stop=True)
            state = built.trainer.state_dict()
            if world.writes:
                save_checkpoint(folder / f"{name}.pt", state)
            torch.distributed.barrier()
            rest = build(from_dict(values), device, world)
            rest.trainer.load_state_dict(load_checkpoint(folder / f"{name}.pt"))
            found[f"{name}, resumed"] = fit(rest)
        found["world"] = vars(world)
    torch.save(found, folder / f"{world.rank}.pt")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What process 0 and process 1 found, and their folder."""
    folder = tmp_path_factory.mktemp("pair")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stderr=subprocess.PIPE,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return first, second, folder


Pair = tuple[dict[str, Any], dict[str, Any], Path]


def assert_same_rows(ours: list[dict[str, float]], theirs: list[dict[str, float]], but: tuple[str, ...] = ()) -> None:
    """Equal within rounding; extremes of a batch depend on which rows are evaluated together."""
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key, value in other.items():
            if not key.startswith("val/jr/") and not key.endswith(("unit_loss", *but)):
                assert mine[key] == pytest.approx(value, rel=1e-5, abs=1e-5), (mine["epoch"], key)


def assert_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_are_one(pair: Pair, name: str) -> None:
    alone = fit(build(from_dict(CONFIGS[name])))
    first, second, _ = pair
    # Penalties of a forward pass are evaluated on batches of another size.
    but = ("JR_loss", "val/total_loss") if "jumpstart" in name else ()
    assert_same_rows(first[name]["rows"], alone["rows"], but=but)
    for ours, theirs in zip(first[name]["rows"], alone["rows"], strict=True):
        for key in ("train/JR_loss", "train/scaled_JR_loss") if "jumpstart" in name else ():
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key
    assert_same_tensors(first[name]["state"], alone["state"])
    for ours, theirs in zip(first[name]["own"], alone["own"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for key, value in first[name]["state"].items():
        assert torch.equal(value, second[name]["state"][key]), "processes drift apart"
    assert first[name]["rows"] == second[name]["rows"]


def test_without_global_batch_the_penalty_is_the_mean_of_those_of_the_processes(pair: Pair) -> None:
    """One batch of 70: units are asked for their extremes in each half of it, which is stricter than in the whole."""
    built = build(from_dict(OTHERS["apart"]))
    order = torch.randperm(70, generator=torch.Generator().manual_seed(built.config.seed))
    regularizer = built.trainer.penalties[0].regularizer
    losses = []
    for rows in (order[:35], order[35:], order):
        built.model(next(built.data.train.batches([rows], 1)).x)
        losses.append(regularizer.loss.item())
    found = pair[0]["apart"]["rows"][0]["train/JR_loss"]
    assert found == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)
    assert found > losses[2] * 1.01


def test_running_statistics_are_averaged(pair: Pair) -> None:
    """One step on all rows: each half gives running statistics of its own."""
    values = OTHERS["batchnorm"]
    rows = build(from_dict(values)).data.train
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42))
    halves = []
    for half in order.tensor_split(2):
        model = build(from_dict(values)).model.train()
        model(rows.x[half])
        halves.append(dict(model.named_buffers()))
    averaged = [name for name, value in halves[0].items() if value.is_floating_point()]
    assert averaged
    for found in pair[:2]:
        for name in averaged:
            expected = (halves[0][name] + halves[1][name]) / 2
            torch.testing.assert_close(found["batchnorm"]["state"][name], expected)
            assert not torch.allclose(halves[0][name], halves[1][name])


def test_two_processes_broken_off_within_an_epoch_go_on_as_two_or_as_one(pair: Pair) -> None:
    first, _, folder = pair
    whole = fit(build(from_dict(BROKEN)))
    state = load_checkpoint(folder / "broken.pt")
    assert (state["epoch"], state["step"]) == STOP
    assert state["totals"]["rows"] == STOP[1] * 8, "of both processes"
    assert state["status"]["points"] == STOP[1] * 8
    alone = build(from_dict(BROKEN))
    alone.trainer.load_state_dict(state)
    for rest in (fit(alone), first["broken, resumed"]):
        assert_same_rows(first["broken"]["rows"] + rest["rows"], whole["rows"], but=("JR_loss", "val/total_loss"))
        assert_same_tensors(rest["state"], whole["state"])
        for kind in ("dead", "linear", "nonlinear"):
            for what in ("unit", "point"):
                key = f"train/jr/{what}_{kind}_ratio"
                assert rest["rows"][-1][key] == pytest.approx(whole["rows"][-1][key]), key


def test_running_statistics_of_both_processes_are_in_a_checkpoint(pair: Pair) -> None:
    for found in pair[:2]:
        (whole,), (resumed,) = found["normalized"]["rows"][1:], found["broken normalized, resumed"]["rows"]
        assert resumed == pytest.approx(whole, rel=1e-5, abs=1e-6)
        assert_same_tensors(found["broken normalized, resumed"]["state"], found["normalized"]["state"])


def test_each_process_knows_its_place(pair: Pair) -> None:
    assert [found["world"]["rank"] for found in pair[:2]] == [0, 1]
    assert World(**pair[0]["world"]).writes and not World(**pair[1]["world"]).writes
    assert World() == distributed.from_environment()


def children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.slow
def test_a_run_of_two_processes_survives_the_death_of_one(tmp_path: Path) -> None:
    options = ["--dataset", "fake", "--image-size", "8", "--n-samples", "400", "--depth", "20", "--epochs", "40"]
    options += ["--width-multiplier", "0.5", "--batch-size", "16", "--lambda", "0.01", "--wandb", "disabled"]
    options += ["--no-plots", "--checkpoint-every", "0.05", "--devices", "cpu:2", "--run-dir", str(tmp_path)]
    command = [sys.executable, "-m", "regx", "resnet", *options]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not any(path.read_text().count("\n") > 3 for path in tmp_path.glob("*/metrics.csv")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = children(run.pid)
    assert len(workers) >= 2
    os.kill(workers[-1], signal.SIGKILL)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err.decode()
    assert "a process was killed; going on from the last checkpoint" in err.decode()
    (folder,) = tmp_path.iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["epochs"]) == ("finished", 40)
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 41))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
