"""What a trainer is told beyond the config that its author wrote."""

import hashlib
from pathlib import Path

import pytest

from app.datasets.models import Dataset
from app.db import Database
from app.runs import service
from app.runs.models import Run
from app.runs.states import RunState
from app.settings import Settings
from app.storage import Store
from kdcore.config import RUN_CONFIG, DistillLines, FileCorpus, PipelineConfig, TeacherConfig
from kdcore.inputs import Inputs
from worker.inputs import fetch_inputs
from worker.workspace import Workspace

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def resolved(run: Run, database: Database, settings: Settings) -> Inputs:
    workspace = Workspace.of(settings, run.id, 1)
    workspace.create()
    config = RUN_CONFIG.validate_python(run.config)
    return fetch_inputs(config, workspace, database, settings, Store(settings))


def test_a_pipelines_teacher_knows_which_lines_will_be_wanted(
    database: Database, settings: Settings
) -> None:
    wanted = DistillLines(min_tokens=20)
    config = PipelineConfig.model_validate({"distill": {"lines": wanted}})
    with database.write() as session:
        teacher, _, distillation = service.submit_pipeline(session, config)
        alone = service.submit(session, TeacherConfig())
    assert "distil_lines" not in teacher.config
    assert resolved(teacher, database, settings).distil_lines == wanted
    assert resolved(alone, database, settings).distil_lines is None
    # Once no distillation waits for it, the teacher is wanted for itself.
    with database.write() as session:
        session.get_one(Run, distillation.id).state = RunState.CANCELLED
    assert resolved(teacher, database, settings).distil_lines is None


def test_a_teacher_trains_though_what_waits_for_it_is_not_valid_any_more(
    database: Database, settings: Settings
) -> None:
    with database.write() as session:
        teacher, _, distillation = service.submit_pipeline(session, PipelineConfig())
        # Release 0.1 accepted it where alpha_mse was left out.
        loss = {"alpha_ce": 0, "alpha_mlm": 0, "alpha_cos": 0}
        distillation.config = distillation.config | {"loss": loss}
    assert resolved(teacher, database, settings).distil_lines is None


def test_an_upload_keeps_the_name_that_its_user_gave(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    data = b"a line of text\n" * 100
    folder = settings.uploads_dir / "d00000000001"
    folder.mkdir(parents=True)
    (folder / "data.txt").write_bytes(data)
    with database.write() as session:
        session.add(
            Dataset(
                id="d00000000001",
                name="my letters.txt",
                kind="text",
                format="txt",
                size_bytes=len(data),
                documents=100,
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    corpus = {"source": "upload", "dataset_id": "d00000000001"}
    with database.write() as session:
        run = service.submit(session, TeacherConfig.model_validate({"corpus": corpus}))
    found = resolved(run, database, settings).corpus
    assert isinstance(found, FileCorpus)
    assert (found.label, found.validation_label) == ("my letters.txt", None)
