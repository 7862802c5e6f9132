"""Table of uploaded datasets and tokenizers."""

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UtcDateTime, utc_now


class Dataset(Base):
    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    """The name given by the user; text, never a path."""
    kind: Mapped[str] = mapped_column(String(16))
    """`text` or `tokenizer`."""
    format: Mapped[str] = mapped_column(String(16))
    """`txt`, `jsonl`, `csv`, `parquet`, `tokenizer_json` or `vocab_txt`."""
    columns: Mapped[str] = mapped_column(String(2000), default="")
    """JSON list of the columns that hold text, empty for plain text and tokenizers."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    documents: Mapped[int | None] = mapped_column(BigInteger)
    """Non-empty lines or rows; None for tokenizers."""
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
