"""The `halflayer` command line: parses arguments, calls services, maps errors to exit codes.

What only some commands need is imported by them: the database, the broker and the web framework
take longer to import than `halflayer runs list` takes.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.cli import backup, doctor, retention, runs, tokens
from app.cli.client import ClientError
from app.cli.terminal import console, errors, say
from app.private_files import keep_private, make_files_private
from app.settings import Settings
from kdcore import __version__

if TYPE_CHECKING:
    from app.local.stack import Stack

EXIT_CODES = """
Exit codes: 0 success; 1 error, or the run did not succeed; 2 invalid usage; 3 server unreachable;
4 token missing or not permitted; 5 request refused; 6 download damaged.
"""

app = typer.Typer(
    help="Distill BERT-like encoders: teachers with LayerDrop, pruned students, live curves.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(runs.app, name="runs")
app.add_typer(tokens.app, name="token")
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(doctor.doctor)
app.command()(retention.cleanup)

Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port; default: the next free one from 8000."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Data folder (HALFLAYER_DATA_DIR).", file_okay=False)
]


def _settings(**given: Any) -> Settings:
    return Settings(**{name: value for name, value in given.items() if value is not None})


@app.command()
def up(
    port: Port = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Run Halflayer on this machine (broker, API and one worker) until Ctrl-C."""
    from app.doctor.machine import no_worker_because  # noqa: PLC0415
    from app.local.stack import running_stack  # noqa: PLC0415

    with running_stack(_settings(data_dir=data_dir, port=port, host=host), say) as stack:
        _print_link(stack)
        if problem := no_worker_because(stack.settings):
            say(f"No worker runs: {problem}. Queued runs will not start.", style="yellow")
        say("Press Ctrl-C to stop; running runs save a checkpoint and resume at the next start.")
        _serve(stack)


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Exit at the end instead of continuing to serve.")
    ] = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Run the published experiment at small scale, with and without LayerDrop."""
    from app.cli.demo import run_demo  # noqa: PLC0415
    from app.local.stack import running_stack  # noqa: PLC0415

    with running_stack(_settings(data_dir=data_dir, port=port), say) as stack:
        _print_link(stack)
        run_demo(stack)
        if not leave:
            say(f"\nStill serving at {stack.public_url}; press Ctrl-C to stop.")
            _print_link(stack)
            _serve(stack)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def worker(context: typer.Context) -> None:
    """Run a worker on this machine for the installation that HALFLAYER_* configures."""
    from app.local.processes import python_module  # noqa: PLC0415
    from app.local.stack import child_environment  # noqa: PLC0415

    environment = child_environment(Settings())
    # Replaced, not wrapped: signals and the exit code are the worker's own.
    os.execve(  # noqa: S606
        sys.executable, python_module("worker.main", *context.args), environment
    )


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Migrate the database to this version."""
    from app.migrations import upgrade  # noqa: PLC0415

    settings = _settings(data_dir=data_dir)
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


def _print_link(stack: "Stack") -> None:
    say("\nHalflayer is ready. Open this one-time sign-in link:")
    say(f"  {stack.sign_in_link()}\n")
    say(f"Data is stored in {stack.settings.data_dir.resolve()} (change it with --data-dir).")


def _serve(stack: "Stack") -> None:
    """Keep the stack running until Ctrl-C or SIGTERM."""
    try:
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        say("Stopping ...")


def _exit_gracefully(number: int, _frame: FrameType | None) -> NoReturn:
    # Like Ctrl-C: context managers stop the child processes.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Entry point; prints known errors as one line and exits with their code."""
    make_files_private()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_gracefully)
    try:
        app()
    except Exception as error:
        message, code = _line_and_code(error)
        _fail(message, code)


def _line_and_code(error: Exception) -> tuple[str, int]:
    """The message and exit code of a known error; raises all others."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from app.backup.manifest import BackupError  # noqa: PLC0415
    from app.cli.demo import DemoFailed  # noqa: PLC0415
    from app.db import WrongEncoding  # noqa: PLC0415
    from app.errors import AppError  # noqa: PLC0415
    from app.local.embedded_broker import BrokerMissing  # noqa: PLC0415
    from app.local.stack import StackError  # noqa: PLC0415

    match error:
        case ClientError():
            return str(error), error.exit_code
        case StackError() | BrokerMissing() | DemoFailed() | BackupError() | WrongEncoding():
            return str(error), 1
        case AppError():
            return error.detail, 5
        case ValidationError() if error.title == Settings.__name__:
            wrong = error.errors()[0]
            prefix = Settings.model_config["env_prefix"]
            name = f"{prefix}{'.'.join(map(str, wrong['loc']))}".upper()
            return f"{name}: {wrong['msg']}", 2
        case SettingsError():
            return f"a HALFLAYER_ variable is not valid JSON: {error}", 2
        case SQLAlchemyError():
            return f"database error: {error}".splitlines()[0], 1
    raise error


def _fail(message: str, code: int) -> NoReturn:
    say(f"halflayer: {message}", errors, style="red")
    sys.exit(code)
