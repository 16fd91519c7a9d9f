"""`regx cost`: what a trained network costs dense, masked and compact, counted and on the clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regx.cli import output, progress
from regx.cli.trained_run import DataDir, Device, PathOfRun, loaded, size_text

if TYPE_CHECKING:
    import torch

    from regx.analysis.cost import Measured, Networks
    from regx.training.trained import Trained

EPILOG = """Examples:

  regx cost runs/NAME

  regx cost runs/NAME --batch-size 1 --batch-size 128 --threads 4 --layers

  regx cost runs/NAME --device cuda --repeats 200 -f json
"""


def cost(
    path: PathOfRun,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size", "-b", metavar="N", help="Samples of a pass, any number of times (default: 1 and 32)."
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="CPU threads of an operation.")] = 1,
    device: Device = "cpu",
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Timed passes of every network.")] = 50,
    layers: Annotated[bool, typer.Option("--layers", help="Also print what is left of every layer.")] = False,
    data_dir: DataDir = None,
    format: Annotated[
        str,
        typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats),
    ] = "table",
) -> None:
    """Measure what a trained network costs: dense, masked (its zeros in place) and compact (its zeros removed).

    Parameters and multiply-adds are counted. Memory and latency are measured in float32, the networks in turn, so that whatever slows the machine slows all of them; brackets hold quartiles.
    """  # noqa: E501 (a broken line would be printed as one)
    output.check_format(format)
    trained = loaded(path, data_dir, device)
    with progress.waiting("compacting"):
        from regx.analysis import cost as costs
        from regx.analysis.sizes import by_layer

        found = costs.networks(trained)
    batches = {size: costs.batch(trained, size) for size in dict.fromkeys(batch_size or [1, 32])}
    measured = {}
    for size, x in batches.items():
        with progress.waiting(f"measuring batches of {size}"):
            measured[size] = costs.measure(found.models, x, repeats=repeats, threads=threads)
    place = next(iter(batches.values())).device
    where = {"device": _device(place), "threads": threads, "repeats": repeats}
    sizes = next(iter(measured.values()))
    after = sizes.get("compact", sizes[found.base])
    rows = by_layer(sizes["dense"].size, after.size) if layers else None
    memory = costs.ON_CUDA if place.type == "cuda" else costs.ON_CPU
    if format == "json":
        print(json.dumps(_as_dict(trained, found, measured, where, memory, rows), indent=2))
        return
    _print(trained, found, measured, where, memory)
    if rows:
        _print_layers(rows)


def _device(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def _speed_up(found: Networks, of: dict[str, Measured], name: str) -> tuple[float, float, float] | None:
    """Of the compact network alone: dense and masked compute the same operations on the same sizes."""
    return of[name].speed_up(of[found.base]) if name == "compact" else None


def _as_dict(
    trained: Trained,
    found: Networks,
    measured: dict[int, dict[str, Measured]],
    where: dict[str, Any],
    memory: str,
    rows: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    sizes = next(iter(measured.values()))
    passes = []
    for size, of in measured.items():
        for name, item in of.items():
            up = _speed_up(found, of, name)
            passes.append(
                {"network": name, "batch_size": size, "peak_bytes": item.peak_bytes}
                | {"latency_s": item.median, "latency_q1_s": item.quartiles[0], "latency_q3_s": item.quartiles[1]}
                | {"samples_per_s": item.throughput}
                | {"speed_up": up and {"against": found.base, "ratio": up[0], "q1": up[1], "q3": up[2]}}
            )
    counted = {
        name: {"parameters": item.size.parameters, "macs": item.size.macs, "file_bytes": item.size.bytes}
        for name, item in sizes.items()
    }
    report = {"checkpoint": str(trained.checkpoint), "epoch": trained.epoch, **where, "networks": counted}
    report |= {"passes": passes, "peak_bytes_are": memory, "notes": found.notes}
    return report if rows is None else report | {"layers": rows}


def _print(
    trained: Trained,
    found: Networks,
    measured: dict[int, dict[str, Measured]],
    where: dict[str, Any],
    memory: str,
) -> None:
    sizes = next(iter(measured.values()))
    dense = sizes["dense"].size
    output.print_table(
        f"{trained.checkpoint}, epoch {trained.epoch}",
        ["network", "parameters", "multiply-adds", "state_dict"],
        [
            [name, _left(of.parameters, dense.parameters), _left(of.macs, dense.macs), size_text(of.bytes)]
            for name, of in ((name, item.size) for name, item in sizes.items())
        ],
    )
    rows = []
    for size, of in measured.items():
        for name, item in of.items():
            up = _speed_up(found, of, name)
            latency = f"{_ms(item.median)} [{', '.join(map(_ms, item.quartiles))}]"
            faster = "" if up is None else f"{up[0]:.2f} [{up[1]:.2f}, {up[2]:.2f}]"
            rows.append([size, name, latency, f"{item.throughput:,.0f}", faster, size_text(item.peak_bytes)])
    cores = f", {where['threads']} thread{'s' * (where['threads'] > 1)}" if where["device"] == "cpu" else ""
    output.print_table(
        f"{where['device']}{cores}, {where['repeats']} passes of each in turn",
        ["batch", "network", "latency in ms", "samples/s", f"speed-up against {found.base}", "peak activations"],
        rows,
    )
    for note in [*found.notes, f"peak activations: {memory}"]:
        print(f"* {note}")


def _print_layers(rows: list[dict[str, Any]]) -> None:
    print()
    output.print_table(
        "what compact has left of every layer of dense",
        ["layer", "channels", "parameters", "", "multiply-adds", ""],
        [
            [row["layer"], _change(row, "channels")]
            + [cell for key in ("parameters", "macs") for cell in (_change(row, key), _share(row, key))]
            for row in rows
        ],
    )


def _change(row: dict[str, Any], key: str) -> str:
    before, after = row[key], row[f"{key}_left"]
    return "" if not before else f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _share(row: dict[str, Any], key: str) -> str:
    return f"{100 * row[f'{key}_left'] / row[key]:.0f} %" if row[key] else ""


def _left(count: int, dense: int) -> str:
    return f"{count:,}" + (f" ({100 * count / dense:.1f} %)" if count != dense else "")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:#.3g}".rstrip(".") if seconds < 1 else f"{1e3 * seconds:.0f}"
