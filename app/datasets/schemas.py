"""Request and response bodies of datasets; knows no table."""

from datetime import datetime
from typing import Literal

from app.schemas import Schema

DatasetKind = Literal["text", "tokenizer"]
DatasetFormat = Literal["txt", "jsonl", "csv", "parquet", "tokenizer_json", "vocab_txt"]


class DatasetInfo(Schema):
    """An uploaded text or tokenizer."""

    id: str
    name: str
    kind: DatasetKind
    format: DatasetFormat
    columns: list[str]
    """Columns or JSON keys that hold text; empty for plain text and tokenizers."""
    size_bytes: int
    documents: int | None
    """Non-empty lines or rows; null for tokenizers."""
    sha256: str
    created_at: datetime


class DatasetList(Schema):
    """Uploaded datasets, newest first."""

    items: list[DatasetInfo]
    total: int
