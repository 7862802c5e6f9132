"""The command `halflayer`: parses, calls, prints; everything it does is done elsewhere."""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy.exc import SQLAlchemyError

from app.backup.manifest import BackupError
from app.cli import backup, doctor, retention, runs, tokens
from app.cli.client import ClientError
from app.cli.demo import DemoFailed, run_demo
from app.cli.terminal import console, errors, say
from app.db import WrongEncoding
from app.errors import AppError
from app.local.embedded_broker import BrokerDidNotStart, BrokerMissing
from app.local.processes import python_module
from app.local.stack import Stack, StackError, child_environment, running_stack
from app.migrations import upgrade
from app.private_files import keep_private, make_files_private
from app.settings import Settings
from kdcore import __version__

EXIT_CODES = """
Exit codes: 0 done; 1 failed, or the run did not succeed; 2 wrong usage; 3 no server answers;
4 the token is missing or may not do this; 5 the server refused; 6 a download was damaged.
"""

app = typer.Typer(
    help="Distil BERT-like encoders: teachers with LayerDrop, pruned students, live curves.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(runs.app, name="runs")
app.add_typer(tokens.app, name="token")
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(doctor.doctor)
app.command()(retention.tidy)

Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port to serve on; by default the next free one."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder for everything (HALFLAYER_DATA_DIR).", file_okay=False)
]


def _settings(data_dir: Path | None, port: int | None, host: str | None = None) -> Settings:
    given: dict[str, Any] = {"data_dir": data_dir, "port": port, "host": host}
    return Settings(**{name: value for name, value in given.items() if value is not None})


@app.command()
def up(
    port: Port = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Serve Halflayer on this machine: broker, API and one worker, until Ctrl-C."""
    with running_stack(_settings(data_dir, port, host), say) as stack:
        _print_link(stack)
        say("Ctrl-C stops it; runs that train save a checkpoint and resume later.")
        _serve(stack)


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Leave at the end instead of serving on.")
    ] = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Run the published experiment at demo scale, with and without LayerDrop."""
    with running_stack(_settings(data_dir, port), say) as stack:
        _print_link(stack)
        run_demo(stack)
        if not leave:
            say(f"\nStill serving at {stack.public_url}; Ctrl-C stops it.")
            _print_link(stack)
            _serve(stack)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def worker(context: typer.Context) -> None:
    """Run a worker on this machine for the installation that HALFLAYER_* names."""
    environment = child_environment(Settings())
    # Replaced, not wrapped: signals and the exit code are the worker's own.
    os.execve(  # noqa: S606
        sys.executable, python_module("worker.main", *context.args), environment
    )


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to this version's tables."""
    settings = _settings(data_dir, None)
    keep_private(settings)
    upgrade(settings.resolved_database_url)
    console.print("The database is up to date.")


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `halflayer` itself; that of the version ends the process."""


def _print_link(stack: Stack) -> None:
    say("\nHalflayer is ready. Open this link; it signs one browser in, once:")
    say(f"  {stack.sign_in_link()}\n")
    say(f"Data is stored in {stack.settings.data_dir.resolve()} (change it with --data-dir).")


def _serve(stack: Stack) -> None:
    """Keeps the stack going until Ctrl-C or SIGTERM, which is how it is meant to end."""
    try:
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        say("Stopping ...")


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    # Like Ctrl-C: the blocks that hold children end, and end their children.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """The entry point: runs a command and turns known errors into one line and an exit code."""
    make_files_private()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        app()
    except ClientError as error:
        _fail(str(error), error.exit_code)
    except (
        StackError, BrokerMissing, BrokerDidNotStart, DemoFailed, BackupError, WrongEncoding
    ) as error:  # fmt: skip
        _fail(str(error), 1)
    except AppError as error:
        _fail(error.detail, 5)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        wrong = error.errors()[0]
        name = f"{Settings.model_config['env_prefix']}{'.'.join(map(str, wrong['loc']))}".upper()
        _fail(f"{name}: {wrong['msg']}", 2)
    except SettingsError as error:
        _fail(f"a HALFLAYER_ variable is not the JSON that it must be: {error}", 2)
    except SQLAlchemyError as error:
        _fail(f"the database does not answer as it should: {error}".splitlines()[0], 1)


def _fail(message: str, code: int) -> NoReturn:
    say(f"halflayer: {message}", errors, style="red")
    sys.exit(code)
