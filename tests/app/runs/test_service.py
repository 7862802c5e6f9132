"""Submitting, listing and deleting runs: what can be known before training is refused in words."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from app.datasets.models import Dataset
from app.db import Database
from app.errors import Conflict, Invalid
from app.runs import lifecycle, service
from app.runs.ingest import Position, append_events
from app.runs.models import LogLine, MetricPoint, Run, RunInput
from app.runs.states import RunState
from app.runs.transitions import RunNotFound, StaleAttempt
from kdcore.config import RUN_CONFIG, PipelineConfig, RunCheckpoint
from kdcore.events import Log, Metrics
from kdcore.shapes import ModelShape
from tests.app.runs.test_states import add_run, claim, row

SHAPE = ModelShape("bert", 4, 64, 4, 128, 64, 1000, "fingerprint")


def submit(database: Database, kind: str, **config: Any) -> Run:
    with database.write() as session:
        return service.submit(session, RUN_CONFIG.validate_python({"kind": kind, **config}))


def problems(database: Database, kind: str, **config: Any) -> dict[str, str]:
    """Pointer and words of each problem; nothing may have been stored."""
    with pytest.raises(Invalid) as caught:
        submit(database, kind, **config)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def succeeded(database: Database, kind: str = "teacher", shape: ModelShape | None = SHAPE) -> str:
    run_id = add_run(database, RunState.SUCCEEDED, shape=asdict(shape) if shape else None)
    with database.write() as session:
        session.get_one(Run, run_id).kind = kind
    return run_id


def ref(run_id: str) -> dict[str, str]:
    return {"source": "run", "run_id": run_id}


def test_a_teacher_from_scratch_is_queued_with_its_shape(database: Database) -> None:
    run = submit(database, "teacher", layer_drop=0.1)
    assert run.state == RunState.QUEUED
    assert run.queued_at is not None
    assert run.shape is not None
    assert run.shape["layers"] == 4
    assert "0.1" in run.name
    assert row(database, run.id).config["layer_drop"] == 0.1


def test_a_run_waits_for_an_input_that_has_not_ended(database: Database) -> None:
    teacher = submit(database, "teacher")
    pruned = submit(database, "prune", teacher=ref(teacher.id))
    assert pruned.state == RunState.WAITING
    assert pruned.shape is not None
    assert pruned.shape["layers"] == 2
    assert [(i.role, i.input_run_id) for i in pruned.inputs] == [("teacher", teacher.id)]


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED])
def test_an_input_without_a_result_is_refused(database: Database, state: RunState) -> None:
    found = problems(database, "prune", teacher=ref(add_run(database, state)))
    assert list(found) == ["/teacher/run_id"]
    assert state in found["/teacher/run_id"]


def test_an_input_that_is_being_cancelled_or_unknown_is_refused(database: Database) -> None:
    dying = add_run(database, RunState.CANCELLING)
    found = problems(database, "distill", teacher=ref(dying), student=ref("nosuchrun000"))
    assert "being cancelled" in found["/teacher/run_id"]
    assert "there is no run" in found["/student/run_id"]


def test_a_pruned_run_cannot_be_the_teacher_of_a_distillation(database: Database) -> None:
    pruned = succeeded(database, "prune")
    found = problems(
        database, "distill", teacher=ref(pruned), student={"source": "scratch", "layers": 1}
    )
    assert list(found) == ["/teacher/run_id"]


@pytest.mark.parametrize(
    ("kind", "config", "pointer"),
    [
        ("prune", {"layers": {"strategy": "explicit", "layers": [0, 7]}}, "/layers/layers"),
        ("prune", {"layers": {"strategy": "first_k", "k": 5}}, "/layers/k"),
        ("distill", {"student": {"source": "scratch", "hidden_size": 128}}, "/student/hidden_size"),
        ("distill", {"student": {"source": "scratch", "hidden_size": 32}}, "/loss/alpha_cos"),
        ("distill", {"student": {"source": "scratch", "layers": 5}}, "/student"),
        (
            "distill",
            {"student": {"source": "scratch"}, "lines": {"min_tokens": 65}},
            "/lines/min_tokens",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(
    database: Database, kind: str, config: dict[str, Any], pointer: str
) -> None:
    assert list(problems(database, kind, teacher=ref(succeeded(database)), **config)) == [pointer]


def test_a_teacher_cannot_be_asked_for_lines_beyond_its_positions(database: Database) -> None:
    model = {"source": "scratch", "max_positions": 64}
    found = problems(database, "teacher", model=model, seq_len=64, distil_lines={"min_tokens": 65})
    assert list(found) == ["/distil_lines/min_tokens"]


def test_a_teacher_with_another_epsilon_cannot_become_a_distilbert(database: Database) -> None:
    teacher = succeeded(database, shape=replace(SHAPE, layer_norm_eps=1e-5))
    found = problems(database, "prune", teacher=ref(teacher))
    assert "layer_norm_eps" in found["/student_family"]
    pruned = submit(database, "prune", teacher=ref(teacher), student_family="bert")
    assert pruned.shape is not None
    assert pruned.shape["layer_norm_eps"] == 1e-5


def test_a_shape_of_an_earlier_release_has_the_usual_epsilon(database: Database) -> None:
    old = asdict(SHAPE)
    del old["layer_norm_eps"]
    run_id = add_run(database, RunState.SUCCEEDED, shape=old)
    pruned = submit(database, "prune", teacher=ref(run_id))
    assert pruned.shape is not None
    assert pruned.shape["layer_norm_eps"] == 1e-12


def test_another_tokenizer_is_refused(database: Database) -> None:
    teacher = succeeded(database)
    other = ModelShape("distilbert", 2, 64, 4, 128, 64, 1000, "another fingerprint")
    student = succeeded(database, "prune", other)
    found = problems(database, "distill", teacher=ref(teacher), student=ref(student))
    assert "different tokenizers" in found["/student"]


def test_paths_of_the_server_are_refused(database: Database) -> None:
    found = problems(
        database,
        "teacher",
        model={"source": "folder", "path": "/etc"},
        corpus={"source": "file", "path": "/etc/passwd"},
        tokenizer={"source": "folder", "path": "/etc"},
    )
    assert set(found) == {"/model", "/corpus", "/tokenizer"}


def test_uploads_must_exist_be_of_the_kind_and_have_the_column(database: Database) -> None:
    common = {"size_bytes": 1, "sha256": "0" * 64, "name": "x"}
    with database.write() as session:
        session.add(
            Dataset(id="d0000000text", kind="text", format="csv", columns='["body"]', **common)
        )
        session.add(Dataset(id="d000000vocab", kind="tokenizer", format="vocab_txt", **common))
    upload = {"source": "upload", "dataset_id": "d0000000text"}
    wrong = problems(
        database,
        "teacher",
        corpus={"source": "upload", "dataset_id": "d000000vocab"},
        tokenizer={"source": "upload", "dataset_id": "d00000000000"},
    )
    assert set(wrong) == {"/corpus/dataset_id", "/tokenizer/dataset_id"}
    assert "'body'" in problems(database, "teacher", corpus=upload)["/corpus/column"]
    tokenizer = {"source": "upload", "dataset_id": "d000000vocab"}
    submit(database, "teacher", corpus=upload | {"column": "body"}, tokenizer=tokenizer)


def text_upload(database: Database, dataset_id: str, size_bytes: int, documents: int) -> None:
    with database.write() as session:
        session.add(
            Dataset(
                id=dataset_id,
                name="my letters.txt",
                kind="text",
                format="txt",
                size_bytes=size_bytes,
                documents=documents,
                sha256="0" * 64,
            )
        )


def test_text_that_is_certainly_too_little_is_refused_by_its_name(database: Database) -> None:
    text_upload(database, "d0000oneline", 23_000, 1)
    text_upload(database, "d0000000tiny", 300, 10)
    text_upload(database, "d0000enough0", 3000, 10)
    upload = {"source": "upload", "dataset_id": "d0000oneline"}
    found = problems(database, "teacher", corpus=upload)
    assert "'my letters.txt' has a single document" in found["/corpus/dataset_id"]
    tiny = {"source": "upload", "dataset_id": "d0000000tiny"}
    found = problems(database, "teacher", corpus=tiny, seq_len=512)
    assert "'my letters.txt' has at most 320 tokens" in found["/corpus/dataset_id"]
    both = upload | {"validation_dataset_id": "d0000000tiny"}
    found = problems(database, "teacher", corpus=both, seq_len=512)
    assert list(found) == ["/corpus/validation_dataset_id"]
    submit(database, "teacher", corpus=both, seq_len=512, evaluation={"seq_len": 320})
    submit(database, "teacher", corpus=both, seq_len=320)
    submit(database, "teacher", corpus={"source": "upload", "dataset_id": "d0000enough0"})


def test_fingerprints_of_an_older_release_are_compared_as_far_as_they_go(
    database: Database,
) -> None:
    def shape(family: str, fingerprint: str) -> ModelShape:
        return ModelShape(family, 2, 64, 4, 128, 64, 1000, fingerprint)  # type: ignore[arg-type]

    for old, new, same in (
        ("a1", "a1+b2", True),
        ("a1+b2", "a1", True),
        ("a1", "a2+b2", False),
        ("a1+b2", "a1+b3", False),
    ):
        teacher = succeeded(database, "teacher", shape("bert", old))
        student = succeeded(database, "prune", shape("distilbert", new))
        runs = {"teacher": ref(teacher), "student": ref(student)}
        if same:
            submit(database, "distill", **runs)
        else:
            assert "different tokenizers" in problems(database, "distill", **runs)["/student"]


def test_a_pipeline_is_three_linked_runs(database: Database) -> None:
    with database.write() as session:
        runs = service.submit_pipeline(session, PipelineConfig(), "mine")
    assert [run.kind for run in runs] == ["teacher", "prune", "distill"]
    assert [run.name for run in runs] == ["mine: teacher", "mine: prune", "mine: distil"]
    assert len({run.pipeline_id for run in runs}) == 1
    assert [run.state for run in runs] == ["queued", "waiting", "waiting"]
    distil = RUN_CONFIG.validate_python(runs[2].config)
    assert distil.kind == "distill"
    assert distil.teacher == RunCheckpoint(run_id=runs[0].id)
    assert distil.student == RunCheckpoint(run_id=runs[1].id)


def test_a_pipelines_problems_point_into_its_parts(database: Database) -> None:
    for config, pointer in (
        ({"prune": {"layers": {"strategy": "last_k", "k": 9}}}, "/prune/layers/k"),
        ({"distill": {"lines": {"max_tokens": 4096}}}, "/distill/lines/max_tokens"),
        ({"teacher": {"corpus": {"source": "file", "path": "x"}}}, "/teacher/corpus"),
    ):
        with pytest.raises(Invalid) as caught, database.write() as session:
            service.submit_pipeline(session, PipelineConfig.model_validate(config))
        assert [problem.pointer for problem in caught.value.problems] == [pointer]
    with database.read() as session:
        assert service.list_runs(session)[1] == 0


def test_lists_filter_search_and_page_newest_first(database: Database) -> None:
    with database.write() as session:
        for number in range(5):
            service.submit(session, PipelineConfig().teacher, f"run {number} 100%")
    with database.read() as session:
        newest, total = service.list_runs(session, limit=2)
        assert ([run.name for run in newest], total) == (["run 4 100%", "run 3 100%"], 5)
        assert service.list_runs(session, query="RUN 2")[1] == 1
        assert service.list_runs(session, query="%")[1] == 5
        assert service.list_runs(session, query="_")[1] == 0
        assert service.list_runs(session, query=newest[0].id)[1] == 1
        assert service.list_runs(session, state="running")[1] == 0
        assert service.list_runs(session, kind="teacher", offset=4, limit=9)[1] == 5


def test_only_unused_datasets_can_be_deleted(database: Database) -> None:
    teacher = succeeded(database)
    pruned = submit(database, "prune", teacher=ref(teacher))
    with pytest.raises(Conflict, match="cancel it first"), database.write() as session:
        service.delete(session, pruned.id)
    with pytest.raises(Conflict, match=pruned.id), database.write() as session:
        service.delete(session, teacher)
    with database.write() as session:
        lifecycle.cancel(session, pruned.id)
    with database.write() as session:
        service.delete(session, teacher)
    with database.read() as session:
        with pytest.raises(RunNotFound):
            service.get_run(session, teacher)
        assert session.get(RunInput, (pruned.id, "teacher")) is None
        assert service.get_run(session, pruned.id).state == RunState.CANCELLED


def test_what_a_run_said_goes_with_it(database: Database) -> None:
    run_id = add_run(database)
    attempt = claim(database, run_id)
    events = [
        Metrics(step=1, values={"loss": 2.0, "lr": None}),
        Log(message="hello\0there \ud800"),
    ]
    with database.write() as session:
        append_events(session, run_id, attempt, events, before=Position(0), after=Position(1, 10))
        lifecycle.fail(session, run_id, attempt, "nan", "x")
    with database.read() as session:
        assert session.get_one(MetricPoint, (run_id, 1, "loss")).value == 2.0
        assert session.get_one(MetricPoint, (run_id, 1, "lr")).value is None
        assert session.get_one(LogLine, (run_id, 2)).message.startswith("hello")
    with database.write() as session:
        service.delete(session, run_id)
    with database.read() as session:
        assert session.get(MetricPoint, (run_id, 1, "loss")) is None


def test_the_same_events_become_rows_once(database: Database) -> None:
    run_id = add_run(database)
    attempt = claim(database, run_id)
    events = [Metrics(step=1, values={"loss": 2.0})]
    before, after = Position(0), Position(attempt, 50)
    with database.write() as session:
        append_events(session, run_id, attempt, events, before=before, after=after)
    with pytest.raises(StaleAttempt), database.write() as session:
        append_events(session, run_id, attempt, events, before=before, after=after)
    assert row(database, run_id).event_seq == 1


def test_renaming_tells_the_streams(database: Database) -> None:
    run = submit(database, "teacher")
    with database.write() as session:
        renamed = service.change(session, run.id, name="another")
    assert (renamed.name, renamed.version) == ("another", 1)
