"""Local paths of the runs and uploads that a config names by id; imports no torch."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kdcore.config import Corpus, DistillLines, FileCorpus, FolderTokenizer, Tokenizer


class Inputs(BaseModel):
    """Local files by the field of the config that names them; None where there is no id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = None
    teacher: Path | None = None
    student: Path | None = None
    tokenizer: Path | None = None
    corpus: FileCorpus | None = None
    distil_lines: DistillLines | None = None
    """The lines that the distillation of the same pipeline will use."""

    def corpus_of(self, config: Corpus) -> Corpus:
        """The corpus with its local files, if they are known."""
        return self.corpus or config

    def tokenizer_of(self, config: Tokenizer) -> Tokenizer:
        """The tokenizer with its local folder, if that is known."""
        return FolderTokenizer(path=str(self.tokenizer)) if self.tokenizer else config


NO_INPUTS = Inputs()
