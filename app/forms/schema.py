"""The config as JSON Schema, as a form may submit it, and what the figures of a result mean."""

from functools import cache
from typing import Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.auth.dependencies import GuardedRoute, needs_read
from app.schemas import Schema
from kdcore.config import (
    DistillConfig,
    FileCorpus,
    FolderCheckpoint,
    FolderTokenizer,
    PipelineConfig,
    PruneConfig,
    TeacherConfig,
)
from kdcore.figures import CURVES, KEY_RESULTS, RESULTS, Figure

router = APIRouter(
    prefix="/schema", tags=["forms"], dependencies=[Depends(needs_read)], route_class=GuardedRoute
)
FormKind = Literal["teacher", "prune", "distill", "pipeline"]
MODELS: dict[FormKind, type[BaseModel]] = {
    "teacher": TeacherConfig,
    "prune": PruneConfig,
    "distill": DistillConfig,
    "pipeline": PipelineConfig,
}
# Paths on the server's own disk: the command line may name them, a client never.
LOCAL_ONLY = frozenset(model.__name__ for model in (FileCorpus, FolderTokenizer, FolderCheckpoint))


class ResultSchema(Schema):
    """The figures that runs yield: how they are called, what they mean, how they are written."""

    results: list[Figure] = Field(examples=[[RESULTS[0].model_dump(mode="json")]])
    """Keys of a run's `result`, in the order of display."""
    curves: list[Figure] = Field(examples=[[CURVES[0].model_dump(mode="json")]])
    """Names of the metric series."""
    key_results: list[str] = Field(examples=[list(KEY_RESULTS)])
    """Of `results`: what a list of runs shows of a run, the first of these that it has."""


@router.get("/results")
def get_result_schema() -> ResultSchema:
    """Label, unit, format and meaning of each figure of a result and of each metric series.

    A run may have others, written by a newer or older release.
    """
    return ResultSchema(results=list(RESULTS), curves=list(CURVES), key_results=list(KEY_RESULTS))


@router.get("/{kind}", response_class=JSONResponse)
def get_config_schema(kind: FormKind) -> dict[str, Any]:
    """The config of this kind of run as JSON Schema: titles, hints, units, ranges and defaults."""
    return form_schema(kind)


@cache
def form_schema(kind: FormKind) -> dict[str, Any]:
    """JSON Schema of the config without the variants that only the command line may use."""
    schema = MODELS[kind].model_json_schema()
    definitions = schema.get("$defs", {})
    for name in LOCAL_ONLY:
        definitions.pop(name, None)
    _drop_local_variants(schema)
    # Pipelines set it by themselves.
    for node in (schema, definitions.get("TeacherConfig", {})):
        node.get("properties", {}).pop("distil_lines", None)
    return schema


def _drop_local_variants(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _drop_local_variants(item)
    if not isinstance(node, dict):
        return
    for key in ("oneOf", "anyOf"):
        if key in node:
            node[key] = [option for option in node[key] if not _is_local(option.get("$ref", ""))]
    mapping = node.get("discriminator", {}).get("mapping", {})
    for tag in [tag for tag, ref in mapping.items() if _is_local(ref)]:
        del mapping[tag]
    for item in node.values():
        _drop_local_variants(item)


def _is_local(ref: str) -> bool:
    return ref.rpartition("/")[2] in LOCAL_ONLY
