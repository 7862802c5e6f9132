"""Shapes that several endpoints share: problems, names, ids; knows no table."""

import unicodedata
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

ID_PATTERN = r"^[a-z0-9]{12}$"


class Schema(BaseModel):
    """Base of all request and response bodies; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def _no_control_characters(text: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise ValueError("must be one line of plain text, without control characters")
    return text


def display_name(text: str) -> str:
    """`text` made fit to be a name: one line, no control characters, at most 200 characters."""
    kept = "".join(c for c in text if unicodedata.category(c) not in {"Cc", "Cs"})
    return kept.strip()[:200]


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_no_control_characters),
]
"""A name that a person gives; text, never markup, never a path."""


class ProblemField(Schema):
    """What is wrong with one field."""

    pointer: str
    """JSON pointer into the body, for instance `/config/model/heads`; `?limit` for a query,
    `idempotency-key:` for a header."""
    detail: str
    """What is wrong and what would be right."""


class Problem(Schema):
    """An error (RFC 9457)."""

    type: str
    """A URN that names the kind of problem."""
    title: str
    """The kind of problem in words."""
    status: int
    """The HTTP status."""
    detail: str
    """What went wrong this time."""
    errors: list[ProblemField]
    """The fields that are wrong; empty where none is to blame."""


RunIdPath = Annotated[str, Path(pattern=ID_PATTERN, description="Id of the run.")]
DatasetIdPath = Annotated[str, Path(pattern=ID_PATTERN, description="Id of the dataset.")]
TokenIdPath = Annotated[str, Path(pattern=ID_PATTERN, description="Id of the token.")]
