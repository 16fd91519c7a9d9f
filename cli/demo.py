"""`regx demo`: small computations whose outcome a person can check by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regx.cli import output

app = typer.Typer(no_args_is_help=True, help="Small computations whose outcome can be checked by hand.")

CURVATURE, OPTIMUM, MOVED = (1.0, 5.0), (3.0, 2.0), (0.3, 2.0)
START, LR, STEPS, STRENGTH = (8.0, 5.0), 0.04, 1000, 0.75
_LAST = 120  # steps that the figure of zeros shows

Point = tuple[float, float]


@app.callback()
def root() -> None:
    """Small computations whose outcome can be checked by hand."""


def descend(penalty: str | None, optimum: Point = OPTIMUM) -> list[Point]:
    """Gradient descent on (w0 - o0)^2 / 2 + 5 (w1 - o1)^2 / 2 and a penalty, in double precision.

    Args:
        penalty: a regularizer as `regx.regularizers.create` takes it, with its strength.
        optimum: o, the optimum of the loss alone.

    Returns:
        The weights before the first step and after each of them.
    """
    import torch

    from regx.regularizers import create

    model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    w = model.weight
    w.data = torch.tensor([START], dtype=torch.float64)
    c, o = torch.tensor(CURVATURE, dtype=torch.float64), torch.tensor(optimum, dtype=torch.float64)
    optimizer = torch.optim.SGD([w], lr=LR)
    regularizer = create(penalty, model) if penalty else None
    path = [START]
    for _ in range(STEPS):
        optimizer.zero_grad()
        (c * (w - o).square() / 2).sum().backward()
        if regularizer:
            regularizer.add_gradients()
        optimizer.step()
        if regularizer:
            regularizer.step(optimizer)
        w0, w1 = w[0].tolist()
        path.append((w0, w1))
    return path


@app.command("l1-trajectory")
def l1_trajectory(
    out: Annotated[Path, typer.Option("--out", help="Where to write the figures.")] = Path("figures"),
    theme: Annotated[str, typer.Option("--theme", metavar="light|dark|both", help="Background.")] = "light",
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", metavar="png|svg|csv", help="What to write; may be repeated (default: all)."),
    ] = None,
) -> None:
    """Draw how L1 and L2 move an optimum, and that only proximal steps make a weight exactly zero.

    Two weights descend 1000 steps of 0.04 from (8, 5), on (w0 - 3)^2 / 2 + 5 (w1 - 2)^2 / 2 and a penalty times 0.75.

    Then the optimum is at w0 = 0.3, which L1 moves to 0.

    Source: a notebook of IntelLabs/distiller.
    """
    from regx.analysis.figures import FORMATS, check_look, save_all
    from regx.analysis.figures.trajectory import near_zero, ways

    formats = format or FORMATS
    check_look(theme, formats)
    spelled = {"no penalty": None, "L1": f"l1={STRENGTH}", "L2": f"l2={STRENGTH}"}
    paths = {name: descend(text) for name, text in spelled.items()}
    zeros = {"subgradient": f"l1={STRENGTH}", "proximal": f"l1(prox=true)={STRENGTH}"}
    small = {name: descend(text, MOVED) for name, text in zeros.items()}
    rows = [[name, "(3, 2)", *_end(path)] for name, path in paths.items()]
    rows += [[f"L1 by {name} steps", "(0.3, 2)", *_end(path)] for name, path in small.items()]
    columns = ["penalty", "optimum of the loss", "w0", "w1", f"w0 in the last {_LAST} steps", "w0 exactly 0 from"]
    output.print_table(f"after {STEPS} steps", columns, rows)
    figures = [
        ways(
            "l1-trajectory",
            "Gradient descent without a penalty, with L1 and with L2",
            f"{STEPS} steps of {LR:g} from (8, 5), strength {STRENGTH:g}. Grey: contours of the loss alone.",
            CURVATURE,
            OPTIMUM,
            paths,
        ),
        near_zero(
            "l1-trajectory-zero",
            "A weight that L1 moves to zero",
            f"The last {_LAST} of {STEPS} steps of {LR:g}; optimum of the loss at w0 = 0.3, strength {STRENGTH:g}.",
            {name: [w0 for w0, _ in path[-_LAST:]] for name, path in small.items()},
            STEPS - _LAST + 1,
        ),
    ]
    for path in save_all(figures, out, theme, formats):
        print(path)


def _end(path: list[Point]) -> list[str]:
    w0, w1 = path[-1]
    last = [x for x, _ in path[-_LAST:]]
    zero = next((step for step in range(len(path)) if all(x == 0 for x, _ in path[step:])), None)
    return [
        f"{w0:.6f}",
        f"{w1:.6f}",
        f"{min(last):.3f} to {max(last):.3f}",
        "never" if zero is None else f"step {zero}",
    ]
