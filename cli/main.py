"""The `regx` command: its sub-commands, and how errors become one line and an exit code."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

import regx
from regx.cli import (
    compact,
    cost,
    datasets,
    demo,
    doctor,
    experiments,
    export,
    listing,
    plot,
    report,
    resume,
    sensitivity,
    sparsity,
    sweep,
    wandb,
    watch,
)
from regx.errors import UserError

# Panel of the commands that look at what was trained.
AFTER = "After training"

app = typer.Typer(
    name="regx",
    help="Which regularizer makes this network train, stay alive and get smaller, and at what cost?",
    epilog="Start with: [bold]regx rectangular --depth 50 --dataset moons --lambda 0.01[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"regx {regx.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Shared options."""


experiments.add_to(app)
app.command("resume", rich_help_panel="Run")(resume.resume)
app.add_typer(sweep.app, name="sweep", rich_help_panel="Run")
app.add_typer(wandb.app, name="wandb", rich_help_panel="Run")
app.command("watch", rich_help_panel="Run")(watch.watch)
app.command("report", rich_help_panel=AFTER)(report.report)
app.command("compare", rich_help_panel=AFTER)(report.compare)
app.command("plot", rich_help_panel=AFTER, epilog=plot.EPILOG)(plot.plot)
app.command("sparsity", rich_help_panel=AFTER)(sparsity.sparsity)
app.command("sensitivity", rich_help_panel=AFTER, epilog=sensitivity.EPILOG)(sensitivity.sensitivity)
app.command("compact", rich_help_panel=AFTER, epilog=compact.EPILOG)(compact.compact)
app.command("cost", rich_help_panel=AFTER, epilog=cost.EPILOG)(cost.cost)
app.command("export", rich_help_panel=AFTER, epilog=export.EPILOG)(export.export)
app.add_typer(demo.app, name="demo", rich_help_panel="Look up")
app.command("list", rich_help_panel="Look up")(listing.list_)
app.command("show", rich_help_panel="Look up")(listing.show)
app.add_typer(datasets.app, name="datasets", rich_help_panel="Look up")
app.command("doctor", rich_help_panel="Look up")(doctor.doctor)


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs the command line; exit codes: 0 done, 1 the run failed, 2 usage, 130 interrupted."""
    try:
        code = app(argv, prog_name="regx", standalone_mode=False)
    except UserError as error:
        # Of several processes that train together, the first tells what is wrong with a request, for all of them.
        rank = os.environ.get("RANK", "0")
        if rank != "0" and error.exit_code == 2:
            sys.exit(error.exit_code)
        fail((f"process {rank}: " if rank != "0" else "") + _flag(error.option) + error.message, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of a pipe went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
            fail("not enough memory; use a smaller --batch-size, --width, --depth or --image-size, or --accumulate", 1)
        if not hasattr(error, "format_message"):
            raise
        # Typer's own usage errors; the class lives in a private module.
        usage: Any = error
        if not usage.format_message():  # help was shown for want of a command
            sys.exit(usage.exit_code)
        fail(usage.format_message().replace("\n", " "), usage.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _flag(option: str | None) -> str:
    if option is None or option.isupper():  # an environment variable is named as it is
        return f"{option}: " if option else ""
    return f"--{option.rstrip('_').replace('_', '-')}: "


def fail(message: str, code: int) -> NoReturn:
    """Prints one line on stderr and exits."""
    print(f"regx: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
