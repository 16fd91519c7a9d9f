"""`regx compact`: the smaller network that a trained one contains, checked and saved."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from regx.cli import output, progress
from regx.cli.trained_run import DataDir, Device, loaded
from regx.errors import RunFailed

EPILOG = """Examples:

  regx compact runs/NAME

  regx compact runs/NAME --target-macs 0.5

  regx compact runs/NAME --threshold 1e-3 --out small

  regx resnet --from runs/NAME/compact --epochs 5 --lr 0.01
"""


def compact(
    path: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder, or a checkpoint in one.")],
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="NUMBER",
            help="First set to zero: units and filters whose weights have at most this Euclidean norm, and channels "
            "whose scale in a batch normalization is at most this.",
        ),
    ] = None,
    target_macs: Annotated[
        float | None,
        typer.Option(
            "--target-macs",
            metavar="SHARE",
            help="First set to zero: the channels of the smallest magnitude, until this share of the multiply-adds is "
            "left.",
        ),
    ] = None,
    dead: Annotated[
        bool,
        typer.Option(
            "--dead", help="Also remove units that are 0 for every training sample; for other samples they may not be."
        ),
    ] = False,
    fold_linear: Annotated[
        bool,
        typer.Option(
            "--fold-linear",
            help="Fold fully connected units that no training sample makes negative into their neighbours: a ReLU does "
            "nothing to them. For other samples it might.",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Compare the outputs with those of the masked network on the validation samples, and save nothing "
            "where they differ by more than --tolerance.",
        ),
    ] = True,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", metavar="NUMBER", help="Largest difference, as a share of the largest output.", min=0
        ),
    ] = 1e-5,
    layers: Annotated[bool, typer.Option("--layers", help="Also print what is left of every layer.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to save the compact network (default: RUN/compact)."),
    ] = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    format: Annotated[
        str,
        typer.Option("--format", "-f", metavar="table|json", help="How to print.", autocompletion=output.formats),
    ] = "table",
) -> None:
    """Remove from a trained network what its regularizer has zeroed: a smaller network that computes the same.

    Channels, units and residual branches go that are zero, constant or not read by anything.
    What they contribute goes into biases, so the outputs stay the same for every input.

    The result is saved as a folder that every command takes for a run: train it on with --from.
    """
    output.check_format(format)
    with progress.waiting("loading PyTorch"):
        from regx.analysis import compacting
    trained = loaded(path, data_dir, device)
    with progress.waiting("compacting"):
        result = compacting.compact_run(
            trained,
            threshold=threshold,
            target_macs=target_macs,
            dead=dead,
            fold_linear=fold_linear,
            check=check,
            tolerance=tolerance,
        )
    target = out or trained.folder / "compact"
    try:
        compacting.save(result, trained, target, sys.argv)
    except OSError as error:
        raise RunFailed(f"cannot write {error.filename or target}: {error.strerror}; choose another --out") from error
    if format == "json":
        print((target / "compact.json").read_text(encoding="utf-8"), end="")
        return
    _print(result, target, layers)


def _padded(rows: Iterable[list[str]]) -> list[list[str]]:
    """Rows with their numbers, all but the first column, under each other."""
    columns = list(zip(*rows, strict=True))
    widths = [0, *(max(map(len, column)) for column in columns[1:])]
    return [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in zip(*columns, strict=True)]


def _print(result: Any, target: Path, layers: bool) -> None:
    before, after = result.sizes["trained"], result.sizes["compact"]
    rows = [
        [label, f"{old:,}", f"{new:,}", f"{new / old:.1%}" if old else ""]
        for label, old, new in (
            ("parameters", before.parameters, after.parameters),
            ("multiply-adds per sample", before.macs, after.macs),
            ("channels and units", before.channels, after.channels),
            ("bytes on disk", before.bytes, after.bytes),
        )
    ]
    output.print_table(f"{target}: what is left", ["", "trained", "compact", "left"], _padded(rows))
    if layers:
        keys = {"channels": "channels", "parameters": "parameters", "macs": "multiply-adds"}
        output.print_table(
            "by layer",
            ["layer", *(heading for key in keys.values() for heading in (key, "left"))],
            _padded(
                [row["layer"], *(f"{row[name]:,}" for key in keys for name in (key, f"{key}_left"))]
                for row in result.layers
            ),
        )
    for note in result.notes:
        print(note)
    if result.check:
        found = result.check
        part = f" of {found.of:,}" if found.rows < found.of else ""
        same = "" if found.agreement is None else f", {found.agreement:.1%} of the predictions are the same"
        print(
            f"compact and masked differ by at most {found.difference:.1e} of the largest output on "
            f"{found.rows:,}{part} validation samples{same}"
        )
        name = next((key for key in ("val/acc", "val/r2") if key in found.metrics["trained"]), "val/loss")
        print("  ".join(f"{network} {name} {metrics[name]:.4f}" for network, metrics in found.metrics.items()))
    if after == before:
        print("nothing could be removed: no channel is zero or constant; --threshold or --target-macs makes zeros")
    print(f"saved: {target} (train it on with --from {target})")
