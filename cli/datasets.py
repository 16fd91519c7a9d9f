"""`regx datasets`: get datasets before a run needs them."""

from pathlib import Path
from typing import Annotated

import typer

from regx.data import fetch as fetch_dataset

app = typer.Typer(no_args_is_help=True, help="Fetch datasets into the cache.")


@app.callback()
def root() -> None:
    """Fetch datasets into the cache."""


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of `regx list datasets`, or uci:ID.")],
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where to (default: $REGX_DATA, else the user's cache folder).")
    ] = None,
) -> None:
    """Download datasets, so that later runs need no network."""
    for name in names:
        print(f"{name}: {fetch_dataset(name, data_dir)}")
