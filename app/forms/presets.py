"""The presets over HTTP."""

from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field

from app.auth.dependencies import GuardedRoute, needs_read
from app.schemas import Schema
from kdcore.presets import PRESETS, PresetKind, preset

router = APIRouter(
    prefix="/presets", tags=["forms"], dependencies=[Depends(needs_read)], route_class=GuardedRoute
)


EXAMPLE = preset("small-teacher")


class PresetInfo(Schema):
    """A config worth starting from."""

    id: str = Field(examples=[EXAMPLE.id])
    title: str = Field(examples=[EXAMPLE.title])
    description: str = Field(examples=[EXAMPLE.description])
    kind: PresetKind
    """What the config submits."""
    config: dict[str, Any] = Field(examples=[EXAMPLE.config.model_dump(mode="json")])
    """The whole config, ready to be submitted."""


class PresetList(Schema):
    """All presets."""

    items: list[PresetInfo]


@router.get("")
def list_presets() -> PresetList:
    """Configs worth starting from."""
    return PresetList(
        items=[
            PresetInfo(
                id=each.id,
                title=each.title,
                description=each.description,
                kind=each.kind,
                config=each.config.model_dump(mode="json"),
            )
            for each in PRESETS
        ]
    )
