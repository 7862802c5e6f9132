"""Request and response bodies of datasets; knows no table."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.schemas import Id, Schema, Sha256

DatasetKind = Literal["text", "tokenizer"]
DatasetFormat = Literal["txt", "jsonl", "csv", "parquet", "tokenizer_json", "vocab_txt"]


class DatasetInfo(Schema):
    """An uploaded text or tokenizer."""

    id: Id
    name: str = Field(examples=["letters.txt"])
    kind: DatasetKind
    format: DatasetFormat
    columns: list[str] = Field(examples=[[]])
    """Columns or JSON keys that hold text; empty for plain text and tokenizers."""
    size_bytes: int = Field(examples=[1_048_576])
    documents: int | None = Field(examples=[12_034])
    """Non-empty lines or rows; null for tokenizers."""
    sha256: Sha256
    created_at: datetime


class DatasetList(Schema):
    """Uploaded datasets, newest first."""

    items: list[DatasetInfo]
    total: int
