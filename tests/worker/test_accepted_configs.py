"""What the server accepts at submit, a trainer accepts too."""

import itertools
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.datasets.models import Dataset
from app.db import Database
from app.errors import Invalid
from app.forms.schema import FormKind, form_schema
from app.runs import service
from app.runs.models import Run
from app.runs.schemas import SubmitPipeline, SubmitRun
from app.runs.states import RunState
from kdcore.config import (
    RUN_CONFIG,
    DistillConfig,
    FileCorpus,
    FreshStudent,
    PruneConfig,
    TeacherConfig,
)
from kdcore.errors import DataError, NonFiniteLoss
from kdcore.events import ListSink
from kdcore.run import execute
from kdcore.shapes import (
    ModelShape,
    check_distill,
    check_teacher,
    fresh_student_shape,
    pruned_shape,
    scratch_shape,
)
from tests.app.runs.test_states import add_run
from tests.kdcore.conftest import write_text

SMALL = ModelShape("bert", 4, 64, 4, 128, 64, 1000, "fingerprint")
CUT = ModelShape("distilbert", 2, 64, 4, 128, 64, 1000, "fingerprint")
UPLOAD = "text00000000"
TINY = {
    "model": {"source": "scratch", "layers": 2, "hidden_size": 8, "heads": 2, "max_positions": 16},
    "seq_len": 16,
    "tokenizer": {"source": "wordpiece", "vocab_size": 300},
}
REPEATABLE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def configs(
    kind: FormKind, choices: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """What the form's schema allows, each field with a default present or absent.

    `choices` are the values of the properties of these names.
    """
    root = form_schema(kind)

    def of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            return of(root["$defs"][schema["$ref"].rpartition("/")[2]])
        for union in ("oneOf", "anyOf"):
            if union in schema:
                return st.one_of([of(each) for each in schema[union]])
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        low, high = schema.get("minimum", 0), schema.get("maximum", 10_000)
        match schema["type"]:
            case "object":
                fields = {
                    n: choices[n] if n in choices else of(f)
                    for n, f in schema["properties"].items()
                }
                needed = {*schema.get("required", ()), "source", "strategy"}
                return st.fixed_dictionaries(
                    {name: each for name, each in fields.items() if name in needed},
                    optional={name: each for name, each in fields.items() if name not in needed},
                )
            case "array":
                return st.lists(of(schema["items"]), min_size=1, max_size=3)
            case "integer":
                return st.integers(low, high)
            case "number":
                return st.floats(low, high, exclude_min=True, exclude_max=True)
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
            case "string" if "pattern" in schema:
                return st.from_regex(
                    schema["pattern"], fullmatch=True, alphabet=st.characters(max_codepoint=127)
                )
            case "string":
                return st.text(min_size=1, max_size=20)
        raise AssertionError(schema)

    return of(root)


def filled(database: Database) -> dict[str, ModelShape]:
    """Runs and uploads to start from; the shapes of the runs by their ids."""
    with database.write() as session:
        session.add(
            Dataset(
                id=UPLOAD, name="a.txt", kind="text", format="txt", size_bytes=1, sha256="0" * 64
            )
        )
    return {
        add_run(database, RunState.SUCCEEDED, shape=asdict(shape)): shape for shape in (SMALL, CUT)
    }


def accepted(database: Database, kind: FormKind, config: dict[str, Any]) -> list[Run]:
    """The runs that a request makes; none if it is refused. Nothing stays in the database."""
    try:
        with database.write() as session:
            if kind == "pipeline":
                body = SubmitPipeline.model_validate({"config": config})
                runs = service.submit_pipeline(session, body.config)
            else:
                run = SubmitRun.model_validate({"config": {**config, "kind": kind}})
                runs = [service.submit(session, run.config)]
            session.expunge_all()
            session.rollback()
            return runs
    except (ValidationError, Invalid):
        return []


def check_as_trainer(runs: list[Run], known: dict[str, ModelShape]) -> None:
    """What a worker and its trainer make of the stored configs before they read any text."""
    shapes: dict[str, ModelShape | None] = dict(known)
    for run in runs:
        config = RUN_CONFIG.validate_python(json.loads(json.dumps(run.config)))
        shape: ModelShape | None = None
        match config:
            case TeacherConfig():
                shape = scratch_shape(config) or shapes.get(getattr(config.model, "run_id", ""))
                check_teacher(config, shape)
            case PruneConfig():
                teacher = shapes.get(getattr(config.teacher, "run_id", ""))
                shape = teacher and pruned_shape(config, teacher)
            case DistillConfig():
                teacher = shapes.get(getattr(config.teacher, "run_id", ""))
                if isinstance(config.student, FreshStudent):
                    shape = teacher and fresh_student_shape(config.student, teacher)
                else:
                    shape = shapes.get(getattr(config.student, "run_id", ""))
                if teacher and shape:
                    check_distill(config, teacher, shape)
        shapes[run.id] = shape


@pytest.mark.parametrize("kind", ["teacher", "prune", "distill", "pipeline"])
def test_what_is_accepted_validates_in_the_trainer(sqlite_url: str, kind: FormKind) -> None:
    database = Database(sqlite_url)
    shapes = filled(database)
    seen = {"accepted": 0, "refused": 0}
    lengths = st.integers(8, 600)
    schema = configs(
        kind,
        {
            "run_id": st.sampled_from(list(shapes)),
            "dataset_id": st.just(UPLOAD),
            "validation_dataset_id": st.sampled_from([UPLOAD, None]),
            "column": st.just("text"),
            # Such that rules between fields are often kept, and often broken.
            "hidden_size": st.sampled_from([8, 30, 64, 768]),
            "heads": st.sampled_from([1, 4, 7]),
            "max_positions": lengths,
            "seq_len": lengths,
            "min_tokens": lengths,
            "max_tokens": st.none() | lengths,
            "k": st.integers(1, 5),
            **{f"alpha_{term}": st.sampled_from([0, 1]) for term in ("ce", "mlm", "cos", "mse")},
        },
    )

    @settings(REPEATABLE, max_examples=300)
    @given(schema)
    def submit(config: dict[str, Any]) -> None:
        runs = accepted(database, kind, config)
        seen["accepted" if runs else "refused"] += 1
        check_as_trainer(runs, shapes)

    submit()
    database.close()
    assert min(seen.values()) > 5, f"too one-sided to show anything: {seen}"


def test_what_is_accepted_trains(sqlite_url: str, tmp_path: Path) -> None:
    """Whole pipelines of tiny models: what fails, fails for its numbers or its text."""
    database = Database(sqlite_url)
    folders = (tmp_path / str(number) for number in itertools.count())
    text = FileCorpus(
        path=str(write_text(tmp_path / "text.txt", 200, seed=1)),
        validation_path=str(write_text(tmp_path / "held-out.txt", 20, seed=2)),
    )
    ends: Counter[str] = Counter()
    lengths = st.integers(8, 40)
    pipelines = configs(
        "pipeline",
        {
            "model": st.fixed_dictionaries(
                {
                    "source": st.just("scratch"),
                    "layers": st.integers(1, 3),
                    "hidden_size": st.sampled_from([8, 30]),
                    "heads": st.sampled_from([1, 2, 5]),
                    "intermediate_size": st.just(8),
                    "max_positions": lengths,
                },
                optional={"dropout": st.floats(0, 0.9), "unigram_bias": st.booleans()},
            ),
            "corpus": st.just({"source": "sample"}),
            "tokenizer": st.just({"source": "wordpiece", "vocab_size": 300}),
            "seq_len": lengths,
            "min_tokens": st.integers(3, 14),
            "max_tokens": st.none() | lengths,
            "max_sequences": st.just(4),
            "max_steps": st.just(2),
            "batch_size": st.integers(1, 8),
            "accumulation_steps": st.integers(1, 2),
            "k": st.integers(1, 4),
            "student_family": st.sampled_from(["bert", "distilbert"]),
            **{f"alpha_{term}": st.sampled_from([0, 1]) for term in ("ce", "mlm", "cos", "mse")},
        },
    )

    @settings(REPEATABLE, max_examples=60)
    @given(pipelines)
    def train(config: dict[str, Any]) -> None:
        brief = {"schedule": {"max_steps": 2, "batch_size": 4}}
        config["teacher"] = brief | TINY | config.get("teacher", {})
        config["distill"] = brief | config.get("distill", {})
        runs = accepted(database, "pipeline", config)
        if not runs or ends["trained"] >= 8:
            return
        places: dict[str, dict[str, str]] = {}
        for run in runs:
            stored = json.loads(json.dumps(run.config))
            for role in ("teacher", "student"):
                if role in stored:
                    stored[role] = places[stored[role]["run_id"]]
            if "corpus" in stored:
                stored["corpus"] = text.model_dump()
            folder = next(folders)
            places[run.id] = {"source": "folder", "path": str(folder / "model")}
            try:
                execute(
                    RUN_CONFIG.validate_python(stored),
                    folder,
                    ListSink(),
                    device="cpu",
                    cache_dir=tmp_path / "cache",
                )
            except (DataError, NonFiniteLoss) as error:
                ends[type(error).__name__] += 1
                return
        ends["trained"] += 1

    train()
    database.close()
    assert ends["trained"] >= 3, ends
