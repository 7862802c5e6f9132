"""The one definition of a run; imports no torch.

The same models are the REST request body, the browser form (through JSON Schema), the command
line's flags, the stored row and the model card. An option is written once, here: its
title, its unit and its docstring, the hint, are those of the form.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import ComputedFieldInfo, FieldInfo


def _unit(name: str) -> dict[str, Any]:
    return {"unit": name}


def _title(name: str, _field: FieldInfo | ComputedFieldInfo) -> str:
    """`batch_size` is "Batch size"; fields that need other words have a title of their own."""
    return name.replace("_", " ").capitalize()


def field_error(field: tuple[str, ...], message: str) -> ValidationError:
    """The error that a model validator raises: at the field to change, not at the whole model.

    Rules between fields are model validators, since pydantic runs a field's own validators only
    where the field is given.
    """
    return ValidationError.from_exception_data(
        "config",
        [
            {
                "type": "value_error",
                "loc": field,
                "input": None,
                "ctx": {"error": ValueError(message)},
            }
        ],
    )


class Settings(BaseModel):
    """Base of every config: frozen, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        field_title_generator=_title,
    )


def _no_parent_folder(hub_id: str) -> str:
    if ".." in hub_id or "--" in hub_id:
        raise ValueError("a hub id may not contain '..' or '--'")
    return hub_id


HubId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$",
        examples=["bert-base-uncased"],
    ),
    AfterValidator(_no_parent_folder),
]
"""A HuggingFace hub id: `name` or `organisation/name`; never a path or a URL."""

HubLabel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-\[\]:%]{0,95}$")]
"""A hub config, split or revision name."""

RunId = Annotated[str, Field(pattern=r"^[a-z0-9]{12}$", examples=["k3v9x2m4q8zt"])]
UploadId = Annotated[str, Field(pattern=r"^[a-z0-9]{12}$", examples=["d7c2n5w8j4pf"])]
ColumnName = Annotated[str, Field(min_length=1, max_length=200, title="Text column")]


# ------------------------------------------------------------------------------------ corpora


class SampleCorpus(Settings):
    """English Wikipedia summaries that ship with Halflayer; needs no network."""

    model_config = ConfigDict(title="Offline sample (English Wikipedia)")

    source: Literal["sample"] = "sample"


class HubCorpus(Settings):
    """A text dataset from the HuggingFace hub; needs access to the hub."""

    model_config = ConfigDict(title="HuggingFace hub")

    source: Literal["hub"] = "hub"
    name: HubId = Field(default="Salesforce/wikitext", title="Dataset")
    """Dataset id on the hub."""
    config: HubLabel | None = "wikitext-2-raw-v1"
    """Config (subset) of the dataset; empty if it has only one."""
    train_split: HubLabel = "train"
    """Split to train on."""
    validation_split: HubLabel = "validation"
    """Split to evaluate on."""
    column: ColumnName = "text"
    """Column that contains the text."""


class UploadCorpus(Settings):
    """A dataset uploaded to this server."""

    model_config = ConfigDict(title="Uploaded file")

    source: Literal["upload"] = "upload"
    dataset_id: UploadId = Field(title="Dataset")
    """Uploaded dataset to train on."""
    validation_dataset_id: UploadId | None = Field(default=None, title="Validation dataset")
    """Uploaded dataset to evaluate on; empty holds out every 20th document of the other one."""
    column: ColumnName = "text"
    """Column or JSON key that contains the text; ignored for plain text."""


class FileCorpus(Settings):
    """A file on this machine (command line only; on a server, upload it instead)."""

    model_config = ConfigDict(title="Local file")

    source: Literal["file"] = "file"
    path: str = Field(min_length=1)
    """Path of a .txt, .jsonl, .csv or .parquet file."""
    validation_path: str | None = None
    """File to evaluate on; empty holds out every 20th document."""
    column: ColumnName = "text"
    """Column or JSON key that contains the text; ignored for plain text."""
    label: str | None = None
    """Name of the file in messages; empty uses its own name."""
    validation_label: str | None = None
    """Name of the validation file in messages; empty uses its own name."""


Corpus = Annotated[
    SampleCorpus | HubCorpus | UploadCorpus | FileCorpus, Field(discriminator="source")
]


# --------------------------------------------------------------------------------- tokenizers


class HubTokenizer(Settings):
    """A tokenizer from the HuggingFace hub; needs access to the hub."""

    model_config = ConfigDict(title="HuggingFace hub")

    source: Literal["hub"] = "hub"
    name: HubId = Field(default="bert-base-uncased", title="Tokenizer")
    """Tokenizer id on the hub."""
    revision: HubLabel | None = None
    """Branch, tag or commit; empty uses the default branch."""


class FolderTokenizer(Settings):
    """A tokenizer saved in a folder on this machine (command line only)."""

    model_config = ConfigDict(title="Local folder")

    source: Literal["folder"] = "folder"
    path: str = Field(min_length=1)
    """Folder that contains tokenizer.json or vocab.txt."""


class UploadTokenizer(Settings):
    """A tokenizer.json or vocab.txt uploaded to this server."""

    model_config = ConfigDict(title="Uploaded tokenizer")

    source: Literal["upload"] = "upload"
    dataset_id: UploadId = Field(title="Tokenizer file")
    """Uploaded tokenizer.json or vocab.txt."""


class WordPieceTokenizer(Settings):
    """A WordPiece tokenizer trained on the run's own training text."""

    model_config = ConfigDict(title="New WordPiece vocabulary")

    source: Literal["wordpiece"] = "wordpiece"
    vocab_size: int = Field(
        default=8192,
        ge=200,
        le=200_000,
        title="Vocabulary size",
        json_schema_extra=_unit("entries"),
    )
    """Size of the vocabulary; scripts with many characters need more."""
    cased: bool = False
    """Keep upper and lower case apart; off lower-cases all text."""
    strip_accents: Literal["auto", "always", "never"] = "auto"
    """Remove accents and vowel signs; auto removes the accents of lower-cased Latin and Greek
    text and keeps marks that carry meaning, as in Hindi, Thai, Arabic, Hebrew and Russian."""


class ModelTokenizer(Settings):
    """The tokenizer saved with the checkpoint that the teacher starts from."""

    model_config = ConfigDict(title="The checkpoint's own tokenizer")

    source: Literal["model"] = "model"


Tokenizer = Annotated[
    WordPieceTokenizer | HubTokenizer | UploadTokenizer | FolderTokenizer | ModelTokenizer,
    Field(discriminator="source"),
]


# -------------------------------------------------------------------------------- checkpoints


class RunCheckpoint(Settings):
    """The model of another run on this server."""

    model_config = ConfigDict(title="Run on this server")

    source: Literal["run"] = "run"
    run_id: RunId = Field(title="Run")
    """Run whose model to use; it may still be queued or running."""


class HubCheckpoint(Settings):
    """A BERT-like checkpoint from the HuggingFace hub; needs access to the hub."""

    model_config = ConfigDict(title="HuggingFace hub")

    source: Literal["hub"] = "hub"
    name: HubId = Field(default="bert-base-uncased", title="Model")
    """Model id on the hub."""
    revision: HubLabel | None = None
    """Branch, tag or commit; empty uses the default branch."""


class FolderCheckpoint(Settings):
    """A HuggingFace-format folder on this machine (command line only)."""

    model_config = ConfigDict(title="Local folder")

    source: Literal["folder"] = "folder"
    path: str = Field(min_length=1)
    """Folder that contains config.json and model.safetensors."""


Checkpoint = Annotated[
    RunCheckpoint | HubCheckpoint | FolderCheckpoint, Field(discriminator="source")
]

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class ScratchModel(Settings):
    """A new BERT with randomly initialised weights."""

    model_config = ConfigDict(title="Random weights")

    source: Literal["scratch"] = "scratch"
    layers: Annotated[int, Field(ge=1, le=96)] = 4
    """Number of encoder layers."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 768
    """Size of the hidden states; a multiple of the number of heads."""
    heads: Annotated[int, Field(ge=1, le=256, title="Attention heads")] = 4
    """Number of attention heads per layer."""
    intermediate_size: Annotated[int, Field(ge=8, le=65536)] = 3072
    """Size of the feed-forward layers."""
    max_positions: Annotated[int, Field(ge=8, le=32768, json_schema_extra=_unit("tokens"))] = 512
    """Longest sequence that the model accepts."""
    dropout: Probability = 0.1
    """Dropout rate of hidden states and attention weights."""
    unigram_bias: bool = False
    """Initialise the output bias to the log token frequencies of the training text, so that short
    runs spend no steps on learning them."""

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> Self:
        if self.hidden_size % self.heads:
            raise field_error(
                ("heads",),
                f"{self.heads} heads do not divide a hidden size of {self.hidden_size}: "
                "the hidden size must be a multiple of the number of heads",
            )
        return self


TeacherStart = Annotated[
    ScratchModel | RunCheckpoint | HubCheckpoint | FolderCheckpoint, Field(discriminator="source")
]


class FreshStudent(Settings):
    """A new student with randomly initialised weights."""

    model_config = ConfigDict(title="Random weights")

    source: Literal["scratch"] = "scratch"
    layers: Annotated[int, Field(ge=1, le=96)] = 2
    """Number of encoder layers of the student."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] | None = None
    """Hidden size of the student; empty uses the teacher's. The cosine loss requires equal
    sizes."""
    family: Literal["distilbert", "bert"] = Field(default="distilbert", title="Architecture")
    """Architecture of the student."""


Student = Annotated[
    RunCheckpoint | HubCheckpoint | FolderCheckpoint | FreshStudent,
    Field(discriminator="source"),
]


# ------------------------------------------------------------------------------------ training


class Schedule(Settings):
    """Length of the training, and batch size."""

    epochs: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Passes over the training text; fractions are allowed."""
    max_steps: PositiveInt | None = Field(default=None, json_schema_extra=_unit("steps"))
    """Stop after this many optimizer steps; empty trains for all epochs."""
    batch_size: Annotated[int, Field(ge=1, le=65_536, json_schema_extra=_unit("sequences"))] = 16
    """Sequences per batch."""
    accumulation_steps: int = Field(
        default=1,
        ge=1,
        le=65_536,
        title="Gradient accumulation",
        json_schema_extra=_unit("batches"),
    )
    """Batches per optimizer step; their gradients are added up (gradient_accumulation_steps in
    transformers)."""


class Optimiser(Settings):
    """AdamW with linear warmup and linear decay (Loshchilov & Hutter 2019)."""

    learning_rate: Annotated[float, Field(gt=0, le=1.0)] = 5e-5
    """Peak learning rate."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of all steps in which the learning rate rises to its peak; it then falls to 0
    (warmup_ratio in transformers 4, a warmup_steps below 1 in 5)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay; biases and layer norms are exempt."""
    beta1: Probability = Field(default=0.9, title="Adam β₁")
    """Decay rate of the first-moment estimate."""
    beta2: Probability = Field(default=0.999, title="Adam β₂")
    """Decay rate of the second-moment estimate."""
    epsilon: PositiveFloat = Field(default=1e-8, title="Adam ε")
    """Added to the denominator for numerical stability."""
    clip_norm: PositiveFloat | None = Field(default=1.0, title="Max gradient norm")
    """Clip the gradient norm to this value; empty disables clipping (max_grad_norm in
    transformers)."""


class DistillOptimiser(Optimiser):
    """AdamW with the settings of DistilBERT (Sanh et al. 2019)."""

    learning_rate: Annotated[float, Field(gt=0, le=1.0)] = 5e-4
    """Peak learning rate."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of all steps in which the learning rate rises to its peak; it then falls to 0
    (warmup_ratio in transformers 4, a warmup_steps below 1 in 5)."""
    beta2: Probability = Field(default=0.98, title="Adam β₂")
    """Decay rate of the second-moment estimate."""
    epsilon: PositiveFloat = Field(default=1e-6, title="Adam ε")
    """Added to the denominator for numerical stability."""
    clip_norm: PositiveFloat | None = Field(default=5.0, title="Max gradient norm")
    """Clip the gradient norm to this value; empty disables clipping (max_grad_norm in
    transformers)."""


class DistillSchedule(Schedule):
    """Length of the distillation, and batch size."""

    batch_size: Annotated[int, Field(ge=1, le=65_536, json_schema_extra=_unit("lines"))] = 32
    """Lines of text per batch."""


class Evaluation(Settings):
    """MLM loss on held-out text, measured with the same uniform masks every time."""

    every_steps: PositiveInt | None = Field(
        default=None, title="Evaluate every", json_schema_extra=_unit("steps")
    )
    """Evaluate every N steps; empty evaluates at the end only."""
    max_sequences: PositiveInt | None = Field(default=None, json_schema_extra=_unit("sequences"))
    """Evaluate on at most this many sequences; empty uses the whole validation split."""
    seq_len: Annotated[int, Field(ge=8, le=32768)] | None = Field(
        default=None, title="Sequence length", json_schema_extra=_unit("tokens")
    )
    """Length of the evaluated sequences; empty uses the teacher's training length."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens to predict."""


class Reporting(Settings):
    """Logging and checkpoint intervals; no effect on the result."""

    log_every_steps: int = Field(
        default=10, ge=1, title="Log every", json_schema_extra=_unit("steps")
    )
    """Log metrics every N steps."""
    checkpoint_every_s: float = Field(
        default=120.0, ge=0, title="Checkpoint every", json_schema_extra=_unit("seconds")
    )
    """Save a checkpoint every N seconds, less often if saving would take more than 1 % of the
    training time; 0 saves after every step."""


Precision = Literal["auto", "fp32", "bf16"]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""Bounded by what every JSON reader keeps exactly, browsers too (RFC 8259, section 6)."""


class TeacherConfig(Settings):
    """Train a teacher by masked language modelling with LayerDrop."""

    kind: Literal["teacher"] = "teacher"
    layer_drop: Probability = Field(default=0.0, title="LayerDrop rate")
    """Probability of skipping each encoder layer, drawn independently at every step."""
    model: TeacherStart = ScratchModel()
    """Initial weights of the teacher."""
    corpus: Corpus = SampleCorpus()
    """Text to train and evaluate on."""
    tokenizer: Tokenizer = WordPieceTokenizer()
    """Tokenizer of the teacher and its students."""
    seq_len: int = Field(
        default=512, ge=8, le=32768, title="Sequence length", json_schema_extra=_unit("tokens")
    )
    """Length of the packed training sequences."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens to predict; of these, 80 % are masked, 10 % replaced at random, 10 % kept."""
    schedule: Schedule = Schedule()
    optimiser: Optimiser = Field(default=Optimiser(), title="Optimizer")
    evaluation: Evaluation = Evaluation()
    reporting: Reporting = Reporting()
    precision: Precision = "auto"
    """Training precision; auto uses bf16 where it is faster."""
    seed: Seed = 0
    """Random seed of the initial weights, data order, masks, dropout and LayerDrop."""
    distil_lines: "DistillLines | None" = Field(
        default=None, title="Distillation lines", exclude_if=lambda lines: lines is None
    )
    """Line filter of the later distillation. The run fails before training if no line passes. Set
    by pipelines."""

    @model_validator(mode="after")
    def _tokenizer_fits_start(self) -> Self:
        scratch = isinstance(self.model, ScratchModel)
        if scratch and isinstance(self.tokenizer, ModelTokenizer):
            raise field_error(
                ("tokenizer",),
                "a model from scratch has no tokenizer of its own: "
                "choose 'wordpiece', 'hub', 'upload' or 'folder'",
            )
        if not scratch and isinstance(self.tokenizer, WordPieceTokenizer):
            raise field_error(
                ("tokenizer",),
                "a newly trained vocabulary does not fit the embeddings of a pretrained "
                "checkpoint: choose 'model' to use the checkpoint's own tokenizer",
            )
        return self

    @model_validator(mode="after")
    def _fits_positions(self) -> Self:
        for field, seq_len in (
            (("seq_len",), self.seq_len),
            (("evaluation", "seq_len"), self.evaluation.seq_len or 0),
        ):
            if isinstance(self.model, ScratchModel) and seq_len > self.model.max_positions:
                raise field_error(
                    field,
                    f"sequences of {seq_len} tokens are longer than the model's "
                    f"{self.model.max_positions} positions: lower {'.'.join(field)} or raise "
                    "model.max_positions",
                )
        return self


# --------------------------------------------------------------------------------------- prune


LayerCount = Annotated[
    int, Field(ge=1, le=96, title="Layers to keep", json_schema_extra=_unit("layers"))
]


class EveryOther(Settings):
    """Keep layers 0, 2, 4, ...: half of the teacher's."""

    model_config = ConfigDict(title="Every other layer")

    strategy: Literal["every_other"] = "every_other"


class FirstK(Settings):
    """Keep the first k layers."""

    model_config = ConfigDict(title="First k layers")

    strategy: Literal["first_k"] = "first_k"
    k: LayerCount = 2
    """Number of layers to keep."""


class LastK(Settings):
    """Keep the last k layers."""

    model_config = ConfigDict(title="Last k layers")

    strategy: Literal["last_k"] = "last_k"
    k: LayerCount = 2
    """Number of layers to keep."""


class Spread(Settings):
    """Keep k evenly spaced layers, the first and the last included (6 of 12: 0,2,4,7,9,11)."""

    model_config = ConfigDict(title="k evenly spaced layers")

    strategy: Literal["spread"] = "spread"
    k: LayerCount = 2
    """Number of layers to keep."""


class Explicit(Settings):
    """Keep the listed layers."""

    model_config = ConfigDict(title="Custom list of layers")

    strategy: Literal["explicit"] = "explicit"
    layers: Annotated[list[NonNegativeInt], Field(min_length=1, max_length=96)] = [0, 2]
    """Layers to keep, counted from 0, in ascending order."""

    @field_validator("layers")
    @classmethod
    def _rising(cls, layers: list[int]) -> list[int]:
        if sorted(set(layers)) != layers:
            raise ValueError("list each layer once, in ascending order")
        return layers


LayersToKeep = Annotated[
    EveryOther | FirstK | LastK | Spread | Explicit, Field(discriminator="strategy")
]


class PruneOptions(Settings):
    """How the student is cut from the teacher."""

    layers: LayersToKeep = Field(default=EveryOther(), title="Layers to keep")
    """Layers of the teacher that the student keeps."""
    student_family: Literal["distilbert", "bert"] = Field(
        default="distilbert", title="Student architecture"
    )
    """Architecture of the student; distilbert has no token types and no pooler."""
    copy_head_transform: bool = Field(default=True, title="Copy MLM head")
    """Copy the transform and layer norm of the MLM head; off initialises them randomly, as in the
    published experiment."""
    seed: Seed = 0
    """Random seed of newly initialised tensors."""


class PruneConfig(PruneOptions):
    """Cut a student from a teacher by keeping some of its layers."""

    kind: Literal["prune"] = "prune"
    teacher: Checkpoint
    """Teacher to cut the student from."""


# ------------------------------------------------------------------------------------- distill


class DistillLoss(Settings):
    """Weighted sum of losses that the student minimises (Sanh et al. 2019)."""

    alpha_ce: NonNegativeFloat = Field(default=5.0, title="Soft-target weight")
    """Weight of the soft-target loss: KL(teacher || student) at temperature T, times T squared."""
    alpha_mlm: NonNegativeFloat = Field(default=2.0, title="MLM weight")
    """Weight of the masked-language-model loss."""
    alpha_cos: NonNegativeFloat = Field(default=1.0, title="Cosine weight")
    """Weight of the cosine distance between the last hidden states."""
    alpha_mse: NonNegativeFloat = Field(default=0.0, title="Logit MSE weight")
    """Weight of the mean squared error between the logits."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Softmax temperature of the soft-target loss; higher values give softer targets."""
    positions: Literal["all", "masked"] = "all"
    """Positions in the soft-target, cosine and MSE losses; padding never counts."""

    @model_validator(mode="after")
    def _some_term(self) -> Self:
        if not any((self.alpha_ce, self.alpha_mlm, self.alpha_cos, self.alpha_mse)):
            raise field_error(("alpha_mse",), "every weight is 0: at least one must be greater")
        return self


class DistillMasking(Settings):
    """Which tokens the student must predict: rare tokens are masked more often
    (Lample & Conneau 2019)."""

    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens to predict; of these, 80 % are masked, 10 % replaced at random, 10 % kept."""
    smoothing: Annotated[float, Field(ge=0, le=4)] = 0.7
    """Tokens are masked with probability proportional to count ** -smoothing; 0 is uniform."""


class DistillLines(Settings):
    """Which lines of text the student is trained on."""

    min_tokens: Annotated[int, Field(ge=3, json_schema_extra=_unit("tokens"))] = 12
    """Shorter lines are dropped; [CLS] and [SEP] count."""
    max_tokens: Annotated[int, Field(ge=8, le=32768, json_schema_extra=_unit("tokens"))] | None = (
        None
    )
    """Longer lines are split; empty uses the longest that the models accept."""
    max_unknown: Annotated[float, Field(ge=0, le=1, title="Max share of unknown tokens")] = 0.5
    """Lines with a larger share of unknown tokens are dropped."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise field_error(
                ("max_tokens",), "must not be less than min_tokens: no line would be left"
            )
        return self


class DistillOptions(Settings):
    """How a student learns from its teacher."""

    loss: DistillLoss = DistillLoss()
    masking: DistillMasking = DistillMasking()
    lines: DistillLines = DistillLines()
    freeze_positions: bool = Field(default=True, title="Freeze position embeddings")
    """Do not train the student's position embeddings."""
    schedule: DistillSchedule = DistillSchedule()
    optimiser: DistillOptimiser = Field(default=DistillOptimiser(), title="Optimizer")
    evaluation: Evaluation = Evaluation()
    reporting: Reporting = Reporting()
    precision: Precision = "auto"
    """Training precision; auto uses bf16 where it is faster."""
    seed: Seed = 0
    """Random seed of the data order, masks and dropout."""


class DistillConfig(DistillOptions):
    """Train a student on a teacher's soft targets (DistilBERT's triple loss)."""

    kind: Literal["distill"] = "distill"
    teacher: Checkpoint
    """Teacher whose predictions are the soft targets."""
    student: Student
    """Initial weights of the student, usually from a prune run of the same teacher."""
    corpus: Corpus = SampleCorpus()
    """Text to distill and evaluate on."""


TeacherConfig.model_rebuild()
RunConfig = Annotated[TeacherConfig | PruneConfig | DistillConfig, Field(discriminator="kind")]
RUN_CONFIG: TypeAdapter[TeacherConfig | PruneConfig | DistillConfig] = TypeAdapter(RunConfig)
Kind = Literal["teacher", "prune", "distill"]


class PipelineConfig(Settings):
    """Teacher, prune and distill runs, linked: the student is pruned from this teacher and
    distilled on its corpus."""

    teacher: TeacherConfig = TeacherConfig()
    prune: PruneOptions = PruneOptions()
    distill: DistillOptions = Field(default=DistillOptions(), title="Distillation")

    def prune_config(self, teacher: RunCheckpoint | FolderCheckpoint) -> PruneConfig:
        """The prune run of this pipeline, from a reference to its teacher."""
        return PruneConfig(teacher=teacher, **dict(self.prune))

    def distill_config(
        self,
        teacher: RunCheckpoint | FolderCheckpoint,
        student: RunCheckpoint | FolderCheckpoint,
    ) -> DistillConfig:
        """The distill run of this pipeline, from references to its teacher and student."""
        return DistillConfig(
            teacher=teacher, student=student, corpus=self.teacher.corpus, **dict(self.distill)
        )
