"""The command line of the training library; needs no server.

    python -m kdcore teacher --layer-drop 0.1 --out runs/teacher
    python -m kdcore prune --teacher.path runs/teacher/model --out runs/pruned
    python -m kdcore run --config config.json --out runs/any
    python -m kdcore standby

The flags of `teacher`, `prune` and `distill` are the fields of `kdcore.config`. Exit status: 0 the
result is in OUT/model; 75 stopped on request, a checkpoint was saved and the same command resumes
from it; 1 failed; 2 the flags are wrong; 73 the disk is so full that the failure could not even be
written to the events; 76 another process of the run was lost, the same command resumes from the
last checkpoint.

Several devices train one model together if they are named, or counted:

    python -m kdcore teacher --device cuda:0,cuda:1 --out runs/teacher
    python -m kdcore teacher --devices 2 --out runs/teacher
    torchrun --nproc-per-node 2 -m kdcore teacher --out runs/teacher

`standby` loads the libraries, which takes seconds, and waits for one line of JSON on standard
input: `arguments` as they would stand on the command line, and `output`, the file for what is
printed.
"""

import faulthandler
import gc
import json
import os
import sys
import traceback
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    CliSubCommand,
    SettingsConfigDict,
    get_subcommand,
)

from kdcore.config import (
    RUN_CONFIG,
    DistillConfig,
    PruneConfig,
    RunConfig,
    TeacherConfig,
    field_error,
)
from kdcore.console import TerminalSink
from kdcore.distributed.torchrun import (
    TorchrunEnv,
    die_with_launcher,
    end_at_once,
    launch,
    process_count,
)
from kdcore.errors import (
    ConfigError,
    DataError,
    KdcoreError,
    RankLost,
    is_disk_full,
)
from kdcore.events import FailureSink, Fanout, JsonlSink, Log, RunFailed, Sink
from kdcore.inputs import NO_INPUTS, Inputs
from kdcore.process import (
    EXIT_DISK_FULL,
    EXIT_FAILED,
    EXIT_RANK_LOST,
    EXIT_STOPPED,
    EXIT_USAGE,
    StoppedEarly,
    StopRequest,
    exit_with_parent,
)

_LIBRARIES_BARS = (
    "HF_HUB_DISABLE_PROGRESS_BARS",  # transformers' too
    "HF_DATASETS_DISABLE_PROGRESS_BARS",
    "TQDM_DISABLE",
)
"""Progress is reported by events; a library's own bar would become lines of the run's log."""


def _variants(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The members of a union, by the value of its discriminator."""
    tag = str(field.discriminator)
    return {each.model_fields[tag].default: each for each in get_args(field.annotation)}


def _variant_with(name: str, field: FieldInfo, given: Set[str]) -> str:
    """The one variant of the union `name` that has all the given flags."""
    tag = str(field.discriminator)
    fitting = [
        each for each, model in _variants(field).items() if model.model_fields.keys() >= given
    ]
    if len(fitting) == 1:
        return fitting[0]
    flags = " and ".join(_flag(name, each) for each in sorted(given))
    if not fitting:
        raise field_error((name,), f"{flags} cannot be combined: see --help")
    raise field_error(
        (name,),
        f"{flags} is ambiguous ({' or '.join(fitting)}): select one with {_flag(name, tag)}",
    )


def _flag(*path: str) -> str:
    return "--" + ".".join(path).replace("_", "-")


class _Where(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _infer_variants(cls, data: Any) -> Any:
        """`--teacher.path X` implies `--teacher.source folder`: only a folder has a path."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for name, field in cls.model_fields.items():
            tag, value = field.discriminator, data.get(name)
            if isinstance(tag, str) and isinstance(value, dict) and tag not in value:
                data[name] = {**value, tag: _variant_with(name, field, value.keys())}
        return data

    out: Path = Field(description="Folder of this run; an unfinished run in it is resumed.")
    cache: Path | None = Field(
        default=None, description="Folder for tokenised corpora; empty means inside OUT."
    )
    device: str = Field(
        default="auto",
        description="cpu, cuda:0, ... or auto; comma-separated: one run on several devices.",
    )
    devices: int | None = Field(default=None, ge=1, description="Number of devices for this run.")


class _Teacher(TeacherConfig, _Where):
    """Train a teacher by masked language modelling with LayerDrop."""


class _Prune(PruneConfig, _Where):
    """Create a student from a teacher."""


class _Distill(DistillConfig, _Where):
    """Train a student on a teacher's soft targets."""


class _Run(_Where):
    """Execute a run whose config is in a file, as the worker does."""

    config: Path = Field(description="JSON file with the config, `kind` included.")
    inputs: Path | None = Field(
        default=None,
        description="JSON file that maps fields of CONFIG to local paths.",
    )
    events: Path | None = Field(
        default=None, description="File for the events; empty means OUT/events.jsonl."
    )
    exit_with_parent: bool = Field(
        default=False, description="Exit at once when standard input is closed."
    )
    quiet: bool = Field(default=False, description="Draw no progress bar.")


_COMMANDS: dict[str, type[BaseModel]] = {
    "teacher": _Teacher,
    "prune": _Prune,
    "distill": _Distill,
    "run": _Run,
}


class _Cli(BaseSettings):
    """Distill BERT-like encoders: LayerDrop teachers, pruned students, distillation."""

    model_config = SettingsConfigDict(
        cli_prog_name="python -m kdcore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        # argparse would require the fields of every variant of a union at once.
        cli_enforce_required=False,
        cli_hide_none_type=True,
        nested_model_default_partial_update=True,
        env_prefix="KDCORE_UNUSED_",
    )

    teacher: CliSubCommand[_Teacher]
    prune: CliSubCommand[_Prune]
    distill: CliSubCommand[_Distill]
    run: CliSubCommand[_Run]


class _Help(RawDescriptionHelpFormatter):
    """Says of a union's flags which variant they belong to; pydantic has one default for all."""

    def add_argument(self, action: Action) -> None:
        command, name, key = [*action.dest.split("."), "", "", ""][:3]
        field = _COMMANDS[command].model_fields.get(name) if command in _COMMANDS else None
        if key and field is not None and isinstance(field.discriminator, str):
            if key == field.discriminator:
                default = getattr(field.default, key, None)
                action.help = "Inferred from the other flags."
                action.help += f" (default: {default})" if default else ""
            else:
                having = [tag for tag, v in _variants(field).items() if key in v.model_fields]
                # pydantic-settings' own mark for a field that only some variants require.
                said = str(action.help).replace("(ifdef: required)", "(required)")
                action.help = f"[{' or '.join(having)}] {said}"
        super().add_argument(action)


def main(arguments: list[str] | None = None) -> int:
    """Parse `arguments` (without the program's name) and execute the run."""
    faulthandler.enable()
    for name in _LIBRARIES_BARS:  # read when the libraries are imported, so before that
        os.environ.setdefault(name, "1")
    torchrun = TorchrunEnv.from_environment()
    if torchrun is not None:
        die_with_launcher()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["standby"]:
        arguments = _stand_by()
    try:
        flags: CliSettingsSource[Any] = CliSettingsSource(_Cli, formatter_class=_Help)
        cli = CliApp.run(_Cli, cli_args=arguments, cli_settings_source=flags)
        command = get_subcommand(cli)
        assert isinstance(command, _Where)
        config, inputs = _config_of(command), _inputs_of(command)
        processes = process_count(command.device, command.devices)
    except ValidationError as error:
        for problem in error.errors():
            print(_error_line(problem, of_flags=error.title == _Cli.__name__), file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    if isinstance(command, _Run) and command.exit_with_parent:
        exit_with_parent()
    try:
        command.out.mkdir(parents=True, exist_ok=True)
        if torchrun is None and processes > 1 and not isinstance(config, PruneConfig):
            return launch(arguments, processes, command.out)
        status = _carry_out(config, inputs, command, torchrun)
    except Exception as error:
        full = is_disk_full(error)
        if torchrun is None and not full:
            raise
        with suppress(OSError):  # standard error may be a file on that disk
            print(error if full else traceback.format_exc(), file=sys.stderr)  # noqa: T201
        status = EXIT_DISK_FULL if full else EXIT_FAILED
    if torchrun is not None and status:
        end_at_once(status)
    return status


def _error_line(problem: ErrorDetails, *, of_flags: bool) -> str:
    """One line that names the flag, or the field of the config file."""
    kind, loc = problem["type"], [part for part in problem["loc"] if isinstance(part, str)]
    message = str(problem["ctx"]["error"]) if kind == "value_error" else problem["msg"]
    command = _COMMANDS.get(loc[0]) if len(loc) > 1 else None
    if not of_flags or command is None:
        return f"{'.'.join(loc)}: {message}"
    path = loc[1:]
    field = command.model_fields.get(path[0])
    if field is not None and isinstance(field.discriminator, str):
        tag = _flag(path[0], field.discriminator)
        if len(path) > 1:  # pydantic names the chosen variant, which is not part of the flag
            chosen = path.pop(1)
            if kind == "extra_forbidden":
                message = f"not a flag of {tag} {chosen}"
        elif kind == "missing":
            return f"{tag}: required, one of {', '.join(_variants(field))}"
    return f"{_flag(*path)}: {'required' if kind == 'missing' else message}"


def _carry_out(
    config: RunConfig, inputs: Inputs, command: _Where, torchrun: TorchrunEnv | None
) -> int:
    server_run, is_main_process = (
        isinstance(command, _Run),
        torchrun is None or torchrun.rank == 0,
    )
    events = command.events if isinstance(command, _Run) else None
    path = events or command.out / "events.jsonl"
    jsonl = JsonlSink(path) if is_main_process else FailureSink(path)
    quiet = not is_main_process or (isinstance(command, _Run) and command.quiet)
    terminal = None if quiet else TerminalSink()
    sink: Sink = Fanout(jsonl, terminal) if terminal else jsonl
    try:
        return _execute(config, inputs, command, sink, torchrun, resumable_hint=not server_run)
    except StoppedEarly:
        if not server_run:
            message = "stopped before training began; run the same command again to resume"
            sink.emit(Log(message=message))
        return EXIT_STOPPED
    finally:
        if terminal:
            terminal.close()
        jsonl.close()


def _stand_by() -> list[str]:
    """Wait for the arguments to continue with; exits when this process is no longer needed."""
    exit_with_parent()
    _load_libraries()
    request = json.loads(sys.stdin.buffer.readline())
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    return list(request["arguments"])


def _load_libraries() -> None:
    """Import torch and transformers, which takes seconds.

    They make a million objects that stay, and the collector would look at them again and again: a
    quarter of those seconds.
    """
    gc.disable()
    import kdcore.run  # noqa: F401, PLC0415

    gc.freeze()
    gc.enable()


def _config_of(command: object) -> RunConfig:
    if isinstance(command, _Run):
        return _read_config(command.config)
    assert isinstance(command, _Teacher | _Prune | _Distill)
    where = set(_Where.model_fields)
    fields = {name: getattr(command, name) for name in type(command).model_fields}
    return RUN_CONFIG.validate_python({k: v for k, v in fields.items() if k not in where})


def _inputs_of(command: object) -> Inputs:
    path = command.inputs if isinstance(command, _Run) else None
    return Inputs.model_validate(_read_json(path)) if path else NO_INPUTS


def _read_config(path: Path) -> RunConfig:
    return RUN_CONFIG.validate_python(_read_json(path))


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())  # with or without a byte order mark
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def _execute(
    config: RunConfig,
    inputs: Inputs,
    where: _Where,
    sink: Sink,
    torchrun: TorchrunEnv | None,
    *,
    resumable_hint: bool,
) -> int:
    stop = None if torchrun else StopRequest(alone=True)
    # Here and not at the top: torch takes seconds, and wrong flags deserve an answer at once.
    _load_libraries()
    from kdcore.distributed.process_group import SINGLE_PROCESS, join  # noqa: PLC0415
    from kdcore.run import execute  # noqa: PLC0415
    from kdcore.train.context import Stopped  # noqa: PLC0415
    from kdcore.train.failures import map_machine_errors  # noqa: PLC0415

    ranks = SINGLE_PROCESS
    try:
        with map_machine_errors(where.out):
            ranks = join(torchrun, where.device)
            # A process that waits for the others can do nothing with a request to stop but exit.
            stop = stop or StopRequest(alone=False)
            ended = execute(config, where.out, sink, stop, where.cache, ranks.device, ranks, inputs)
            ranks.destroy()
    except RankLost as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_RANK_LOST
    except KdcoreError as error:
        field = list(error.field) if isinstance(error, ConfigError) else None
        if ranks.claim_failure():
            sink.emit(RunFailed(code=error.code, message=str(error), field=field))
        return EXIT_FAILED
    except Exception as error:
        if ranks.claim_failure():
            sink.emit(RunFailed(code="internal", message=f"{type(error).__name__}: {error}"))
        raise
    if isinstance(ended, Stopped):
        if resumable_hint:
            message = f"stopped at step {ended.step}; run the same command again to resume"
            sink.emit(Log(message=message))
        return EXIT_STOPPED
    return 0
