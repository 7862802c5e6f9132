"""Presets for the form, the command line and the demo; imports no torch."""

from dataclasses import dataclass
from typing import Literal

from kdcore.config import (
    DistillConfig,
    DistillLines,
    DistillMasking,
    DistillOptions,
    DistillSchedule,
    Evaluation,
    FreshStudent,
    HubCheckpoint,
    HubCorpus,
    HubTokenizer,
    Optimiser,
    PipelineConfig,
    PruneConfig,
    PruneOptions,
    Schedule,
    ScratchModel,
    Spread,
    TeacherConfig,
    WordPieceTokenizer,
)

PresetKind = Literal["teacher", "prune", "distill", "pipeline"]


@dataclass(frozen=True)
class Preset:
    """A named config to start from."""

    id: str
    title: str
    description: str
    config: TeacherConfig | PruneConfig | DistillConfig | PipelineConfig

    @property
    def kind(self) -> PresetKind:
        """What the config submits."""
        return "pipeline" if isinstance(self.config, PipelineConfig) else self.config.kind


PUBLISHED_TEACHER = TeacherConfig(
    layer_drop=0.1,
    model=ScratchModel(layers=4, hidden_size=768, heads=4, intermediate_size=3072),
    corpus=HubCorpus(),
    tokenizer=HubTokenizer(),
    seq_len=512,
    schedule=Schedule(epochs=1.0, batch_size=16),
    optimiser=Optimiser(learning_rate=5e-5),
)
PUBLISHED = PipelineConfig(
    teacher=PUBLISHED_TEACHER,
    # The published student's head was left random; Halflayer's own default copies it.
    prune=PruneOptions(copy_head_transform=False),
    # About 14 steps were published; WikiText-2 has some 17,500 lines of at least 12 tokens.
    distill=DistillOptions(schedule=DistillSchedule(batch_size=25, accumulation_steps=50)),
)

# Four layers learn more than word frequencies only after some hundred steps, and then quickly:
# small batches, a narrow feed-forward layer and a small vocabulary make steps cheap, and an output
# bias that starts at the word frequencies saves some.
DEMO_TEACHER = TeacherConfig(
    layer_drop=0.1,
    model=ScratchModel(
        layers=4,
        hidden_size=256,
        heads=4,
        intermediate_size=512,
        max_positions=128,
        dropout=0.0,
        unigram_bias=True,
    ),
    tokenizer=WordPieceTokenizer(vocab_size=4096),
    seq_len=128,
    schedule=Schedule(epochs=1.0, max_steps=850, batch_size=4),
    optimiser=Optimiser(learning_rate=1e-3, warmup_fraction=0.1, weight_decay=0.01),
    evaluation=Evaluation(max_sequences=256),
)
DEMO = PipelineConfig(
    teacher=DEMO_TEACHER,
    distill=DistillOptions(
        # In so few steps, a student that is asked for rare words more often learns little but that
        # they are frequent, and its eval loss, with uniform masks, rises.
        masking=DistillMasking(smoothing=0.0),
        schedule=DistillSchedule(max_steps=80, batch_size=16),
        evaluation=Evaluation(max_sequences=256),
    ),
)

PRESETS: tuple[Preset, ...] = (
    Preset(
        id="published",
        title="Published experiment",
        description="4 layers of size 768 on WikiText-2, every other layer kept, one epoch each; "
        "needs a GPU to be fast, and the hub, or the text and the tokenizer as uploads.",
        config=PUBLISHED,
    ),
    Preset(
        id="demo",
        title="Published experiment at demo scale",
        description="4 layers of size 256 on the offline sample; minutes on two CPU cores, no hub.",
        config=DEMO,
    ),
    Preset(
        id="small-teacher",
        title="Small teacher",
        description="Only the teacher of the demo, on the offline sample.",
        config=DEMO_TEACHER,
    ),
    Preset(
        id="bert-six-layers",
        title="DistilBERT from BERT",
        description="Keeps layers 0, 2, 4, 7, 9 and 11 of bert-base-uncased, as DistilBERT does; "
        "needs the hub.",
        config=PruneConfig(teacher=HubCheckpoint(name="bert-base-uncased"), layers=Spread(k=6)),
    ),
    Preset(
        id="fresh-student",
        title="Student from scratch",
        description="Distils bert-base-uncased into 2 randomly initialised layers on the offline "
        "sample: the baseline for pruned students; needs the hub.",
        config=DistillConfig(
            teacher=HubCheckpoint(name="bert-base-uncased"),
            student=FreshStudent(layers=2),
            lines=DistillLines(max_tokens=128),
        ),
    ),
)


def preset(preset_id: str) -> Preset:
    """The preset of this id; raises KeyError."""
    return {each.id: each for each in PRESETS}[preset_id]
