"""`--engine` and its options: what they ask for, and what is refused before anything runs."""

import os
from pathlib import Path

import pytest
import torch

from regx.cli.sweep_engines import ENGINES, Place, place, start, visible_gpus
from regx.errors import UserError
from regx.sweeps.engines import local


@pytest.mark.parametrize(
    ("count", "visible", "each", "wanted"),
    [
        (0, None, 1, []),
        (4, None, 1, ["0", "1", "2", "3"]),
        (2, "5,7", 1, ["5", "7"]),
        (4, None, 2, ["0+1", "2+3"]),
        (3, None, 2, ["0+1"]),
        (1, None, 2, []),
    ],
)
def test_each_worker_gets_gpus_of_its_own(
    count: int, visible: str | None, each: int, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus(each) == wanted


def test_what_a_command_line_asks_for() -> None:
    assert place("auto", "auto", None) == Place()
    assert place("local", "auto", None) == place("single", "auto", None) == Place(engine="single")
    assert place("local", "3", "0,1+2").gpus == place("native", "3", "0,1+2").gpus == ("0", "1+2")
    found = place("slurm", "8", None, None, ["cpus=4,gpus=1"], ["partition=gpu,minutes=90", "account=me"])
    assert found.each == (("cpus", 4.0), ("gpus", 1.0))
    assert dict(found.slurm) == {"partition": "gpu", "minutes": "90", "account": "me"}
    assert place("ray", "auto", None, "auto", ["cpus=0.5"]).each == (("cpus", 0.5),)


@pytest.mark.parametrize(
    ("arguments", "option", "part"),
    [
        (("lokal", "auto", None), "engine", "did you mean 'local'?"),
        (("gpu", "auto", None), "engine", "'gpu' is not among auto, single, vectorised, native, ray, slurm"),
        (("vectorized", "auto", None), "engine", "did you mean 'vectorised'?"),
        (("local", "0", None), "workers", "at least 1"),
        (("local", "auto", "x"), "gpus", "'x' is no number of a GPU"),
        (("ray", "auto", "0"), "gpus", "is for --engine auto or single or vectorised or native, not ray"),
        (("local", "auto", None, "auto"), "address", "is for --engine ray"),
        (("local", "auto", None, None, ["cpus=1"]), "each", "ray or slurm"),
        (("ray", "auto", None, None, ["cores=1"]), "each", "neither cpus nor gpus"),
        (("ray", "auto", None, None, ["cpus=0"]), "each", "a run needs a core"),
        (("slurm", "auto", None, None, ["gpus=0.5"]), "each", "SLURM gives whole gpus"),
        (("slurm", "auto", None, None, None, ["minutes=1.5"]), "slurm", "whole number"),
        (("slurm", "auto", None, None, None, ["partition"]), "slurm", "write OPTION=VALUE"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[object, ...], option: str, part: str) -> None:
    with pytest.raises(UserError) as error:
        place(*arguments)  # type: ignore[arg-type]
    assert error.value.option == option and part in error.value.message


def test_what_the_planner_is_asked_for() -> None:
    asked = {engine: place(engine, "auto", None).planner().asked for engine in (*ENGINES, "local")}
    here = {name: name for name in ("auto", "single", "vectorised", "native")}
    assert asked == here | {"local": "single", "ray": None, "slurm": None}


def test_there_are_no_more_workers_than_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(local, "LocalEngine", lambda count, gpus: (count, gpus))
    for workers, programs, wanted in (("auto", 3, 3), ("auto", 20, 8), ("4", 20, 4), ("4", 1, 1)):
        asked: list[int] = []

        def most(count: int, programs: int = programs, asked: list[int] = asked) -> int:
            asked.append(count)
            return programs

        assert start(place("auto", workers, None), tmp_path, most, 1) == (wanted, [])
        assert asked == [8 if workers == "auto" else int(workers)]
