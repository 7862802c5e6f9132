"""The flags of `python -m kdcore`: every variant of every union, and words for wrong mixes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import CliApp, get_subcommand

from kdcore import cli
from kdcore.config import DistillConfig, PruneConfig, RunConfig, Settings, TeacherConfig

COMMANDS: dict[str, type[Settings]] = {
    "teacher": TeacherConfig,
    "prune": PruneConfig,
    "distill": DistillConfig,
}
VALUES = {
    "path": "some/folder",
    "validation_path": "some/file.txt",
    "run_id": "k3v9x2m4q8zt",
    "dataset_id": "d7c2n5w8j4pf",
    "validation_dataset_id": "d7c2n5w8j4pf",
    "name": "someone/something",
    "layers": 3,
    "max_positions": 600,
    "vocab_size": 300,
    "dropout": 0.5,
    "family": "bert",
    "hidden_size": 8,
    "strip_accents": "never",
}
REQUIRED = {"teacher": (), "prune": ("teacher",), "distill": ("teacher", "student")}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is wrongly accepted leaves its files in no folder of ours."""
    monkeypatch.chdir(tmp_path)


def kebab(*path: str) -> str:
    return "--" + ".".join(path).replace("_", "-")


def unions() -> Iterator[tuple[str, str, FieldInfo]]:
    for command, model in COMMANDS.items():
        for name, field in model.model_fields.items():
            if field.discriminator:
                yield command, name, field


def variants() -> list[Any]:
    return [
        pytest.param(command, name, variant, id=f"{command}-{name}-{variant.__name__}")
        for command, name, field in unions()
        for variant in get_args(field.annotation)
    ]


def tag_of(command: str, name: str) -> str:
    return str(COMMANDS[command].model_fields[name].discriminator)


def values_of(command: str, name: str, variant: type[BaseModel]) -> dict[str, Any]:
    """A value of its own for each field of the variant, the discriminator left out."""
    found: dict[str, Any] = {}
    for key, field in variant.model_fields.items():
        if key == tag_of(command, name):
            continue
        if key == "layers" and name == "layers":
            found[key] = [1, 3]
        elif field.annotation is bool:
            found[key] = True
        else:
            found[key] = VALUES.get(key, 8 if field.annotation in (int, int | None) else "text")
    return found


def flags(name: str, values: dict[str, Any]) -> list[str]:
    """Command line for these values of the union `name`."""
    found: list[str] = []
    for key, value in values.items():
        if value is True:
            found.append(kebab(name, key))
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            found += [kebab(name, key), text]
    return found


def rest(command: str, name: str, variant: type[BaseModel]) -> list[str]:
    """What else the command needs, beside the union `name`."""
    others = [f"--{other}.path=some/folder" for other in REQUIRED[command] if other != name]
    fits = ["--tokenizer.source", "model"]
    tokenizer = fits if name == "model" and variant.__name__ != "ScratchModel" else []
    if variant.__name__ == "ModelTokenizer":
        tokenizer = ["--model.path", "m"]
    return ["--out", "o", *others, *tokenizer]


def parsed(*arguments: str) -> RunConfig:
    return cli._config_of(get_subcommand(CliApp.run(cli._Cli, cli_args=list(arguments))))


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says about wrong flags."""
    assert cli.main(list(arguments)) == cli.EXIT_USAGE
    return capfd.readouterr().err


@pytest.mark.parametrize(("command", "name", "variant"), variants())
def test_every_variant_can_be_named_with_all_its_flags(
    command: str, name: str, variant: type[BaseModel]
) -> None:
    tag = tag_of(command, name)
    values = values_of(command, name, variant)
    chosen = {tag: variant.model_fields[tag].default}
    config = parsed(
        command, *rest(command, name, variant), *flags(name, chosen), *flags(name, values)
    )
    assert getattr(config, name).model_dump() == {**chosen, **values}


@pytest.mark.parametrize(("command", "name", "variant"), variants())
def test_flags_of_one_variant_select_it(
    command: str, name: str, variant: type[BaseModel], capfd: pytest.CaptureFixture[str]
) -> None:
    field = COMMANDS[command].model_fields[name]
    values = values_of(command, name, variant)
    fitting = [
        each for each in get_args(field.annotation) if values.keys() <= set(each.model_fields)
    ]
    arguments = [command, *rest(command, name, variant), *flags(name, values)]
    if fitting == [variant]:
        assert type(getattr(parsed(*arguments), name)) is variant
    elif values:
        said = refusal(capfd, *arguments)
        assert kebab(name, *values) in said
        assert f"select one with {kebab(name, tag_of(command, name))}" in said


def test_a_hub_id_alone_names_the_hub() -> None:
    names = ["--corpus.name", "a/b", "--model.name", "a/b", "--tokenizer.name", "a/b"]
    config = parsed("teacher", "--out", "o", *names)
    assert isinstance(config, TeacherConfig)
    assert {config.corpus.source, config.model.source, config.tokenizer.source} == {"hub"}


@pytest.mark.parametrize(("command", "name", "variant"), variants())
def test_a_flag_of_another_variant_is_named(
    command: str, name: str, variant: type[BaseModel], capfd: pytest.CaptureFixture[str]
) -> None:
    tag = tag_of(command, name)
    chosen = variant.model_fields[tag].default
    values = values_of(command, name, variant)
    for other in get_args(COMMANDS[command].model_fields[name].annotation):
        for key in other.model_fields.keys() - variant.model_fields.keys():
            extra = {key: values_of(command, name, other)[key]}
            arguments = [command, *rest(command, name, variant), *flags(name, values | extra)]
            said = refusal(capfd, *arguments, kebab(name, tag), chosen)
            assert said == f"{kebab(name, key)}: not a flag of {kebab(name, tag)} {chosen}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("prune --teacher.path t", "--out: required"),
        ("prune --out o", "--teacher.source: required, one of run, hub, folder"),
        ("prune --out o --teacher.source folder", "--teacher.path: required"),
        (
            "prune --out o --teacher.path t --teacher.run-id k3v9x2m4q8zt",
            "--teacher: --teacher.path and --teacher.run-id cannot be combined",
        ),
        ("distill --out o --teacher.path t", "--student.source: required"),
        ("teacher --out o --corpus.source nope", "--corpus: Input tag 'nope'"),
        ("teacher --out o --model.hidden-size 30", "--model.heads: 4 heads do not divide"),
        ("teacher --out o --model.path m", "--tokenizer: a newly trained vocabulary"),
        ("teacher --out o --schedule.max-steps 0", "--schedule.max-steps: "),
        ("prune --out o --teacher.path t --layers.layers 2,0", "--layers.layers: list each"),
    ],
)
def test_wrong_flags_are_named(
    arguments: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capfd, *arguments.split()).startswith(said)


def test_a_config_file_is_blamed_by_its_fields(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"kind": "teacher", "schedule": {"epochs": 0}}))
    said = refusal(capfd, "run", "--config", str(path), "--out", str(tmp_path / "o"))
    assert said.startswith("teacher.schedule.epochs: ")


def test_help_says_which_flags_go_together(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["prune", "--help"])
    assert ended.value.code == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "--teacher.path str [folder] Folder that contains" in said
    assert "--layers.k int [first_k or last_k or spread] Number of layers" in said
    assert "Inferred from the other flags. (default: every_other)" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_no_marks_of_the_library(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "ifdef" not in capfd.readouterr().out
