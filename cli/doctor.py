"""`regx doctor`: is this machine ready, and if not, what to do."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from regx.cli import output, progress

Check = Callable[[], str]


def doctor(
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats)
    ] = "table",
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of datasets to look at (default: $REGX_DATA, else the cache)."),
    ] = None,
) -> None:
    """Check versions, devices, folders and login, and train three steps; exit code 1 if something is broken."""
    output.check_format(format)
    checks: dict[str, Check] = {
        "python": _python,
        "packages": _packages,
        "torchvision": _torchvision,
        "devices": _devices,
        "threads": _threads,
        "data folder": lambda: _data_folder(data_dir),
        "disk": _disk,
        "W&B": _wandb,
        "smoke run": _smoke,
    }
    rows = []
    with progress.waiting("examining"):
        for name, check in checks.items():
            try:
                rows.append({"check": name, "ok": True, "found": check()})
            except Exception as error:  # whatever breaks is what the doctor is there to report
                rows.append(
                    {"check": name, "ok": False, "found": f"{type(error).__name__}: {' '.join(str(error).split())}"}
                )
    if format == "json":
        print(json.dumps(rows, indent=2))
    else:
        output.print_table(
            "regx doctor",
            ["check", "", "found"],
            [[r["check"], "ok" if r["ok"] else "BROKEN", r["found"]] for r in rows],
        )
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _python() -> str:
    return sys.version.split()[0]


def _packages() -> str:
    from regx.training.folder import environment

    found = environment([])
    missing = [name for name, version in found["versions"].items() if version is None]
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}; run `pip install -r requirements.txt`")
    return f"regx {found['regx']}, " + ", ".join(f"{name} {version}" for name, version in found["versions"].items())


def _torchvision() -> str:
    import torch

    try:
        from torchvision.ops import nms
    except RuntimeError as error:
        raise RuntimeError(
            f"torchvision does not fit torch {torch.__version__}; install both from one index ({error})"
        ) from None
    kept = nms(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]]), torch.tensor([0.9, 0.8]), 0.5)
    return f"its compiled operators work with torch {torch.__version__} (kept box {kept.tolist()[0]} of 2)"


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *names]) if names else "cpu (no CUDA device)"


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} of {os.cpu_count()} cores (networks below 200,000 parameters use 1)"


def _data_folder(data_dir: Path | None) -> str:
    from regx.data import data_folder

    folder = data_folder(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise RuntimeError(f"{folder} is not writable; set REGX_DATA or --data-dir")
    found = sorted(path.name for path in folder.iterdir())  # not what lies in them: that may be a million images
    return f"{folder} ({', '.join(found[:8]) or 'empty'}{', ...' if len(found) > 8 else ''})"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < 1:
        raise RuntimeError(f"only {free:.1f} GiB free here")
    return f"{free:.0f} GiB free here"


def _wandb() -> str:
    from regx.training import tracking

    return tracking.describe_login()


def _smoke() -> str:
    import torch

    from regx.models import create
    from regx.regularizers import Jumpstart

    torch.manual_seed(0)
    model = create("rectangular", input_shape=(2,), output_size=1, depth=5, width=4)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x = torch.randn(64, 2)
    y = (x[:, :1] * x[:, 1:] > 0).float()
    with Jumpstart(model) as jumpstart:
        loss = torch.tensor(0.0)
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), y) + 0.01 * jumpstart.loss
            loss.backward()
            optimizer.step()
    if not torch.isfinite(loss):
        raise RuntimeError(f"loss {loss.item()} after three steps")
    return f"three regularised steps, loss {loss.item():.3f}"
