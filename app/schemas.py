"""Schemas that several endpoints share: problems, names, ids; knows no table."""

import unicodedata
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

ID_PATTERN = r"^[a-z0-9]{12}$"


class Schema(BaseModel):
    """Base of all request and response bodies; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def fields_of(row: object, schema: type[Schema]) -> dict[str, Any]:
    """The fields of a schema that a table row has under the same name."""
    return {name: getattr(row, name) for name in schema.model_fields if hasattr(row, name)}


def _no_control_characters(text: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise ValueError("must be one line of plain text, without control characters")
    return text


def display_name(text: str) -> str:
    """`text` as a name: one line, no control characters, at most 200 characters."""
    kept = "".join(c for c in text if unicodedata.category(c) not in {"Cc", "Cs"})
    return kept.strip()[:200]


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_no_control_characters),
    Field(examples=["demo teacher"]),
]
"""A name given by a user; plain text, never markup or a path."""


Id = Annotated[str, Field(examples=["k3v9x2m4q8zt"])]
Sha256 = Annotated[
    str, Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
]


class ProblemField(Schema):
    """What is wrong with one field."""

    pointer: str = Field(examples=["/config/model/heads"])
    """JSON pointer into the body, such as `/config/model/heads`; `?limit` for a query parameter,
    `idempotency-key:` for a header."""
    detail: str = Field(examples=["5 heads do not divide a hidden size of 768"])
    """What is wrong and how to fix it."""


class Problem(Schema):
    """An error (RFC 9457)."""

    type: str = Field(examples=["urn:halflayer:problem:invalid"])
    """URN of the kind of problem."""
    title: str = Field(examples=["Invalid request"])
    """The kind of problem, for people."""
    status: int = Field(examples=[422])
    """The HTTP status."""
    detail: str = Field(
        examples=["/config/model/heads: 5 heads do not divide a hidden size of 768"]
    )
    """What went wrong."""
    errors: list[ProblemField]
    """The invalid fields, if any."""


RunIdPath = Annotated[Id, Path(pattern=ID_PATTERN, description="Id of the run.")]
DatasetIdPath = Annotated[Id, Path(pattern=ID_PATTERN, description="Id of the dataset.")]
TokenIdPath = Annotated[Id, Path(pattern=ID_PATTERN, description="Id of the token.")]
