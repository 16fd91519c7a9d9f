"""`regx export`: a trained network as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regx.cli import progress
from regx.cli.trained_run import DataDir, PathOfRun, loaded, size_text
from regx.errors import UserError

EPILOG = """Examples:

  regx export runs/NAME --to onnx

  regx export runs/NAME --to onnx --batch-size 1 --opset 18 --out network.onnx

  regx export runs/NAME --to torch-export

  regx export runs/NAME --to state-dict --out weights.pt
"""


def export(
    path: PathOfRun,
    to: Annotated[str, typer.Option("--to", metavar="onnx|torch-export|state-dict", help="Form of the file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: best.onnx, say, in PATH.")
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option("--batch-size", "-b", metavar="dynamic|N", help="Samples that the file takes at a time."),
    ] = "dynamic",
    opset: Annotated[
        int | None, typer.Option("--opset", metavar="N", help="ONNX operator set (default: PyTorch's).")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", metavar="X", help="Largest difference to accept, relative to the largest output."),
    ] = 1e-4,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write a trained network for other programs: ONNX, a torch.export program, or its weights alone.

    The file is loaded again and compared with the network on validation samples before it is put in its place (ONNX by onnxruntime, where that is installed). Zeros stay where they are: `regx compact` removes them first.
    """  # noqa: E501 (a broken line would be printed as one)
    if batch_size != "dynamic" and not batch_size.isdigit():
        raise UserError(f"{batch_size!r} is not dynamic and no number", "batch_size")
    size = None if batch_size == "dynamic" else int(batch_size)
    trained = loaded(path, data_dir, "cpu")
    with progress.waiting(f"writing {to}"):
        from regx.analysis import export as exports

        done = exports.export(trained, to, out, batch_size=size, opset=opset, tolerance=tolerance, force=force)
    takes = f", input {' x '.join(map(str, done.shape))}" if done.shape else ""
    print(f"{done.path} ({size_text(done.bytes)}{takes})")
    if done.checked is None:
        print("not checked, as there is no onnxruntime: pip install 'regx[export]'")
    else:
        far = f"differ by at most {done.difference:.1e} ({done.relative:.1e} of the largest)"
        far = far if done.difference else "are the same"
        print(f"outputs by {done.checked} on {done.samples} validation samples {far}")
