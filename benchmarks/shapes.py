"""The sizes that are measured, as kdcore configs; imports no torch.

`published` is the published experiment's size, `demo` that of `make demo`, `tiny` is for tests. All
read the offline sample; a vocabulary that its text cannot fill is padded to the model's size.
"""

from dataclasses import dataclass
from pathlib import Path

from kdcore.config import (
    Corpus,
    DistillConfig,
    DistillOptions,
    DistillSchedule,
    FileCorpus,
    FolderCheckpoint,
    PruneOptions,
    SampleCorpus,
    Schedule,
    ScratchModel,
    TeacherConfig,
    WordPieceTokenizer,
)
from kdcore.presets import DEMO, PUBLISHED

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"
CACHE = BUILD / "cache"
EXCERPT = CACHE / "sample-400.txt"
EXCERPT_DOCUMENTS = 400
TIMING_DROPOUT = 0.1
"""Of the published models, at every shape; parity is measured at 0, where runs can be compared."""
_LONGEST_LINE = 440


@dataclass(frozen=True)
class Shape:
    """One size of teacher, student and batch."""

    name: str
    vocab_size: int
    """Rows of both models' embeddings."""
    teacher: TeacherConfig
    prune: PruneOptions
    distil: DistillOptions

    @property
    def model(self) -> ScratchModel:
        assert isinstance(self.teacher.model, ScratchModel)
        return self.teacher.model

    @property
    def largest_line(self) -> int:
        """Tokens of each line of the largest distillation batch."""
        return min(_LONGEST_LINE, self.model.max_positions)

    def distill_config(self, teacher: Path, student: Path, *, largest: bool) -> DistillConfig:
        """The distillation of these model folders; `largest` for 32 lines an update."""
        config = DistillConfig(
            teacher=FolderCheckpoint(path=str(teacher)),
            student=FolderCheckpoint(path=str(student)),
            corpus=self.teacher.corpus,
            **dict(self.distil),
        )
        if not largest:
            return config
        return config.model_copy(update={"schedule": DistillSchedule(batch_size=32)})


def _shape(
    name: str,
    teacher: TeacherConfig,
    prune: PruneOptions,
    distil: DistillOptions,
    vocab_size: int,
    corpus: Corpus,
) -> Shape:
    assert isinstance(teacher.model, ScratchModel)
    model = {"dropout": TIMING_DROPOUT, "unigram_bias": False}
    changed = {
        # 0, so that both sides do the same work at every update.
        "layer_drop": 0.0,
        "model": ScratchModel(**dict(teacher.model) | model),
        "corpus": corpus,
        "tokenizer": WordPieceTokenizer(vocab_size=vocab_size),
    }
    return Shape(name, vocab_size, TeacherConfig(**dict(teacher) | changed), prune, distil)


def shape(name: str) -> Shape:
    """The shape of this name; raises KeyError."""
    return {
        "published": lambda: _shape(
            "published",
            PUBLISHED.teacher,
            PUBLISHED.prune,
            # The preset accumulates 50 batches; what counts here is the cost of one.
            DistillOptions(
                **dict(PUBLISHED.distill) | {"schedule": DistillSchedule(batch_size=32)}
            ),
            30_522,
            SampleCorpus(),
        ),
        "demo": lambda: _shape(
            "demo", DEMO.teacher, DEMO.prune, DEMO.distill, 4096, SampleCorpus()
        ),
        "tiny": lambda: _shape(
            "tiny",
            TeacherConfig(
                model=ScratchModel(
                    layers=2, hidden_size=32, heads=2, intermediate_size=64, max_positions=64
                ),
                seq_len=32,
                schedule=Schedule(batch_size=4),
            ),
            PruneOptions(),
            DistillOptions(schedule=DistillSchedule(batch_size=4)),
            301,
            FileCorpus(path=str(EXCERPT)),
        ),
    }[name]()


SHAPES = ("published", "demo", "tiny")
