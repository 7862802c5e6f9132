"""The one definition of a run; imports no torch.

The same models are the REST request body, the browser form (through JSON Schema), the command
line's flags, the stored row and the model card. An option is written once, here: its
docstring is the form's hint, `unit` in its schema is the form's unit.
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


def _unit(name: str) -> dict[str, Any]:
    return {"unit": name}


def field_error(field: tuple[str, ...], message: str) -> ValidationError:
    """What a model validator raises: an error of the field to change, not of the whole model.

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
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
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
"""A HuggingFace hub id: `name` or `organisation/name`; never a path or an URL."""

HubLabel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-\[\]:%]{0,95}$")]
"""A hub config, split or revision name."""

RunId = Annotated[str, Field(pattern=r"^[a-z0-9]{12}$", examples=["k3v9x2m4q8zt"])]
UploadId = Annotated[str, Field(pattern=r"^[a-z0-9]{12}$", examples=["d7c2n5w8j4pf"])]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]


# ------------------------------------------------------------------------------------ corpora


class SampleCorpus(Settings):
    """The offline sample: English Wikipedia summaries that ship with the installation."""

    source: Literal["sample"] = "sample"


class HubCorpus(Settings):
    """A text dataset from the HuggingFace hub; needs access to the hub."""

    source: Literal["hub"] = "hub"
    name: HubId = "Salesforce/wikitext"
    """Dataset id on the hub."""
    config: HubLabel | None = "wikitext-2-raw-v1"
    """Dataset configuration; leave empty if the dataset has only one."""
    train_split: HubLabel = "train"
    """Split to train on."""
    validation_split: HubLabel = "validation"
    """Split to evaluate on."""
    column: ColumnName = "text"
    """Column that holds the text."""


class UploadCorpus(Settings):
    """A dataset uploaded to this server."""

    source: Literal["upload"] = "upload"
    dataset_id: UploadId
    """The uploaded dataset to train on."""
    validation_dataset_id: UploadId | None = None
    """The uploaded dataset to evaluate on; without one, every 20th document is held out."""
    column: ColumnName = "text"
    """Column or JSON key that holds the text; ignored for plain text."""


class FileCorpus(Settings):
    """A file on this machine (command line only; in the browser, upload it instead)."""

    source: Literal["file"] = "file"
    path: str = Field(min_length=1)
    """Path of a .txt, .jsonl, .csv or .parquet file."""
    validation_path: str | None = None
    """File to evaluate on; without one, every 20th document is held out."""
    column: ColumnName = "text"
    """Column or JSON key that holds the text; ignored for plain text."""
    label: str | None = None
    """What messages call the file; empty means its own name."""
    validation_label: str | None = None
    """What messages call the file to evaluate on; empty means its own name."""


Corpus = Annotated[
    SampleCorpus | HubCorpus | UploadCorpus | FileCorpus, Field(discriminator="source")
]


# --------------------------------------------------------------------------------- tokenizers


class HubTokenizer(Settings):
    """A tokenizer from the HuggingFace hub; needs access to the hub."""

    source: Literal["hub"] = "hub"
    name: HubId = "bert-base-uncased"
    """Tokenizer id on the hub."""
    revision: HubLabel | None = None
    """Branch, tag or commit; empty means the default branch."""


class FolderTokenizer(Settings):
    """A tokenizer saved in a folder on this machine (command line only)."""

    source: Literal["folder"] = "folder"
    path: str = Field(min_length=1)
    """Folder that holds tokenizer.json or vocab.txt."""


class UploadTokenizer(Settings):
    """A tokenizer.json or vocab.txt uploaded to this server."""

    source: Literal["upload"] = "upload"
    dataset_id: UploadId
    """The uploaded tokenizer file."""


class WordPieceTokenizer(Settings):
    """A WordPiece tokenizer trained on the run's own corpus."""

    source: Literal["wordpiece"] = "wordpiece"
    vocab_size: Annotated[int, Field(ge=200, le=200_000, json_schema_extra=_unit("entries"))] = 8192
    """Number of vocabulary entries to train; scripts of many characters need more."""
    cased: bool = False
    """Tell capital letters apart; off lower-cases all text."""
    strip_accents: Literal["auto", "always", "never"] = "auto"
    """Remove accents and vowel signs; auto removes the accents of lower-cased Latin and Greek text,
    and keeps all marks where they carry meaning, as in Hindi, Thai, Arabic, Hebrew or Russian."""


class ModelTokenizer(Settings):
    """The tokenizer saved beside the pretrained checkpoint that the teacher starts from."""

    source: Literal["model"] = "model"


Tokenizer = Annotated[
    WordPieceTokenizer | HubTokenizer | UploadTokenizer | FolderTokenizer | ModelTokenizer,
    Field(discriminator="source"),
]


# -------------------------------------------------------------------------------- checkpoints


class RunCheckpoint(Settings):
    """The checkpoint of an earlier run on this server."""

    source: Literal["run"] = "run"
    run_id: RunId
    """The run whose result to start from; it may still be running."""


class HubCheckpoint(Settings):
    """A BERT-like checkpoint from the HuggingFace hub; needs access to the hub."""

    source: Literal["hub"] = "hub"
    name: HubId = "bert-base-uncased"
    """Model id on the hub."""
    revision: HubLabel | None = None
    """Branch, tag or commit; empty means the default branch."""


class FolderCheckpoint(Settings):
    """A HuggingFace-format folder on this machine (command line only)."""

    source: Literal["folder"] = "folder"
    path: str = Field(min_length=1)
    """Folder that holds config.json and model.safetensors."""


Checkpoint = Annotated[
    RunCheckpoint | HubCheckpoint | FolderCheckpoint, Field(discriminator="source")
]

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class ScratchModel(Settings):
    """A BERT with random weights."""

    source: Literal["scratch"] = "scratch"
    layers: Annotated[int, Field(ge=1, le=96)] = 4
    """Number of encoder layers."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 768
    """Width of the hidden states; a multiple of the number of heads."""
    heads: Annotated[int, Field(ge=1, le=256)] = 4
    """Number of attention heads."""
    intermediate_size: Annotated[int, Field(ge=8, le=65536)] = 3072
    """Width of the feed-forward layers."""
    max_positions: Annotated[int, Field(ge=8, le=32768, json_schema_extra=_unit("tokens"))] = 512
    """Longest sequence that the model can read."""
    dropout: Probability = 0.1
    """Dropout rate of hidden states and attention weights."""
    unigram_bias: bool = False
    """Start the output bias at the log frequencies of the training text: short trainings then need
    not spend their updates on learning how frequent each word is."""

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
    """A student with random weights, as wide as its teacher."""

    source: Literal["scratch"] = "scratch"
    layers: Annotated[int, Field(ge=1, le=96)] = 2
    """Number of encoder layers of the student."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] | None = None
    """Width of the student; empty means the teacher's. The cosine term needs equal widths."""
    family: Literal["distilbert", "bert"] = "distilbert"
    """Architecture of the student."""


Student = Annotated[
    RunCheckpoint | HubCheckpoint | FolderCheckpoint | FreshStudent,
    Field(discriminator="source"),
]


# ------------------------------------------------------------------------------------ training


class Schedule(Settings):
    """How long to train, and how much text goes into one update."""

    epochs: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Passes over the training text; a fraction stops within a pass."""
    max_steps: PositiveInt | None = Field(default=None, json_schema_extra=_unit("updates"))
    """Stop after this many updates, even if the epochs are not over."""
    batch_size: Annotated[int, Field(ge=1, le=65_536, json_schema_extra=_unit("sequences"))] = 16
    """Sequences that go through the model at once."""
    accumulation_steps: Annotated[
        int, Field(ge=1, le=65_536, json_schema_extra=_unit("batches"))
    ] = 1
    """Batches whose gradients are summed into one update."""


class Optimiser(Settings):
    """AdamW with a linear schedule (Loshchilov & Hutter 2019)."""

    learning_rate: Annotated[float, Field(gt=0, le=1.0)] = 5e-5
    """Peak learning rate."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of all updates over which the learning rate rises to its peak; then it falls to 0."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay; biases and layer norms are exempt."""
    beta1: Probability = 0.9
    """Decay of the first-moment estimate."""
    beta2: Probability = 0.999
    """Decay of the second-moment estimate."""
    epsilon: PositiveFloat = 1e-8
    """Added to the denominator for numerical stability."""
    clip_norm: PositiveFloat | None = 1.0
    """Gradients longer than this are scaled down to it; empty means never."""


class DistillOptimiser(Optimiser):
    """AdamW with DistilBERT's settings (Sanh et al. 2019)."""

    learning_rate: Annotated[float, Field(gt=0, le=1.0)] = 5e-4
    """Peak learning rate."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of all updates over which the learning rate rises to its peak; then it falls to 0."""
    beta2: Probability = 0.98
    """Decay of the second-moment estimate."""
    epsilon: PositiveFloat = 1e-6
    """Added to the denominator for numerical stability."""
    clip_norm: PositiveFloat | None = 5.0
    """Gradients longer than this are scaled down to it; empty means never."""


class DistillSchedule(Schedule):
    """How long to distil, and how much text goes into one update."""

    batch_size: Annotated[int, Field(ge=1, le=65_536, json_schema_extra=_unit("lines"))] = 32
    """Lines of text that go through the models at once."""


class Evaluation(Settings):
    """The held-out masked-language-model loss, with uniform masks that are the same every time."""

    every_steps: PositiveInt | None = Field(default=None, json_schema_extra=_unit("updates"))
    """Also evaluate after every so many updates; empty means at the end only."""
    max_sequences: PositiveInt | None = Field(default=None, json_schema_extra=_unit("sequences"))
    """Evaluate on at most this many sequences; empty means the whole validation split."""
    seq_len: Annotated[int, Field(ge=8, le=32768, json_schema_extra=_unit("tokens"))] | None = None
    """Length of the evaluated sequences; empty means the teacher's training length."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens to predict."""


class Reporting(Settings):
    """How often the run speaks and saves; changes nothing of what it learns."""

    log_every_steps: Annotated[int, Field(ge=1, json_schema_extra=_unit("updates"))] = 10
    """One point of every curve after this many updates."""
    checkpoint_every_s: Annotated[float, Field(ge=0, json_schema_extra=_unit("seconds"))] = 120.0
    """Save a checkpoint to resume from after this time, or later where saving would take more than
    1 % of the run; 0 saves after every update."""


Precision = Literal["auto", "fp32", "bf16"]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""What every reader of JSON keeps exactly, browsers too (RFC 8259, section 6)."""


class TeacherConfig(Settings):
    """Train a teacher by masked language modelling, dropping layers at random (LayerDrop)."""

    kind: Literal["teacher"] = "teacher"
    layer_drop: Probability = 0.0
    """Chance of each encoder layer to be skipped, drawn anew at every update."""
    model: TeacherStart = ScratchModel()
    """What the teacher starts from."""
    corpus: Corpus = SampleCorpus()
    """Text to train and evaluate on."""
    tokenizer: Tokenizer = WordPieceTokenizer()
    """How text is cut into tokens."""
    seq_len: Annotated[int, Field(ge=8, le=32768, json_schema_extra=_unit("tokens"))] = 512
    """Length of the packed training sequences."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens to predict; of these, 80 % are masked, 10 % replaced, 10 % kept."""
    schedule: Schedule = Schedule()
    optimiser: Optimiser = Optimiser()
    evaluation: Evaluation = Evaluation()
    reporting: Reporting = Reporting()
    precision: Precision = "auto"
    """Arithmetic of the matrix products; auto takes bf16 where the hardware gains from it."""
    seed: Seed = 0
    """Fixes the weights' start, data order, masks, dropout and dropped layers."""
    distil_lines: "DistillLines | None" = Field(
        default=None, exclude_if=lambda lines: lines is None
    )
    """Lines that a later distillation will want of the same text: without any such line the run is
    refused before it trains. Pipelines set this by themselves."""

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


class EveryOther(Settings):
    """Keep layers 0, 2, 4, ...: half of the teacher."""

    strategy: Literal["every_other"] = "every_other"


class FirstK(Settings):
    """Keep the first k layers."""

    strategy: Literal["first_k"] = "first_k"
    k: Annotated[int, Field(ge=1, le=96, json_schema_extra=_unit("layers"))] = 2
    """How many layers to keep."""


class LastK(Settings):
    """Keep the last k layers."""

    strategy: Literal["last_k"] = "last_k"
    k: Annotated[int, Field(ge=1, le=96, json_schema_extra=_unit("layers"))] = 2
    """How many layers to keep."""


class Spread(Settings):
    """Keep k layers spread evenly, the first and the last included (12 to 6: 0,2,4,7,9,11)."""

    strategy: Literal["spread"] = "spread"
    k: Annotated[int, Field(ge=1, le=96, json_schema_extra=_unit("layers"))] = 2
    """How many layers to keep."""


class Explicit(Settings):
    """Keep the listed layers."""

    strategy: Literal["explicit"] = "explicit"
    layers: Annotated[list[NonNegativeInt], Field(min_length=1, max_length=96)] = [0, 2]
    """Layers to keep, counted from 0, in rising order."""

    @field_validator("layers")
    @classmethod
    def _rising(cls, layers: list[int]) -> list[int]:
        if sorted(set(layers)) != layers:
            raise ValueError("list each layer once, in rising order")
        return layers


LayersToKeep = Annotated[
    EveryOther | FirstK | LastK | Spread | Explicit, Field(discriminator="strategy")
]


class PruneOptions(Settings):
    """How a student is cut out of a teacher."""

    layers: LayersToKeep = EveryOther()
    """Which of the teacher's layers the student keeps."""
    student_family: Literal["distilbert", "bert"] = "distilbert"
    """Architecture of the student; distilbert has no token types and no pooler."""
    copy_head_transform: bool = True
    """Also copy the MLM head's transform and layer norm; off leaves them random, as in the
    published setting."""
    seed: Seed = 0
    """Fixes the tensors that start at random."""


class PruneConfig(PruneOptions):
    """Keep some of a teacher's layers: the student's first state."""

    kind: Literal["prune"] = "prune"
    teacher: Checkpoint
    """The teacher to cut the student from."""


# ------------------------------------------------------------------------------------- distill


class DistillLoss(Settings):
    """The weighted sum that the student minimises (Sanh et al. 2019)."""

    alpha_ce: NonNegativeFloat = 5.0
    """Weight of the soft-target term KL(teacher || student) at the temperature, times T squared."""
    alpha_mlm: NonNegativeFloat = 2.0
    """Weight of the masked-language-model term."""
    alpha_cos: NonNegativeFloat = 1.0
    """Weight of the cosine distance between the last hidden states."""
    alpha_mse: NonNegativeFloat = 0.0
    """Weight of the mean squared error between the logits."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Softens both distributions of the soft-target term."""
    positions: Literal["all", "masked"] = "all"
    """Positions that the soft-target, cosine and MSE terms look at; padding never counts."""

    @model_validator(mode="after")
    def _some_term(self) -> Self:
        if not any((self.alpha_ce, self.alpha_mlm, self.alpha_cos, self.alpha_mse)):
            raise field_error(("alpha_mse",), "every weight is 0: at least one term must count")
        return self


class DistillMasking(Settings):
    """Which tokens the student must predict: rarer ones more often (Lample & Conneau 2019)."""

    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens to predict; of these, 80 % are masked, 10 % replaced, 10 % kept."""
    smoothing: Annotated[float, Field(ge=0, le=4)] = 0.7
    """Tokens are drawn with probability proportional to count ** -smoothing; 0 is uniform."""


class DistillLines(Settings):
    """Which lines of text the student reads."""

    min_tokens: Annotated[int, Field(ge=3, json_schema_extra=_unit("tokens"))] = 12
    """Shorter lines are dropped; [CLS] and [SEP] count."""
    max_tokens: Annotated[int, Field(ge=8, le=32768, json_schema_extra=_unit("tokens"))] | None = (
        None
    )
    """Longer lines are split; empty means as long as the models can read."""
    max_unknown: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Lines with a greater share of unknown tokens are dropped."""

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
    freeze_positions: bool = True
    """Keep the student's position embeddings exactly as they start."""
    schedule: DistillSchedule = DistillSchedule()
    optimiser: DistillOptimiser = DistillOptimiser()
    evaluation: Evaluation = Evaluation()
    reporting: Reporting = Reporting()
    precision: Precision = "auto"
    """Arithmetic of the matrix products; auto takes bf16 where the hardware gains from it."""
    seed: Seed = 0
    """Fixes the data order, masks and dropout."""


class DistillConfig(DistillOptions):
    """Train a student on a teacher's soft targets (DistilBERT's triple loss)."""

    kind: Literal["distill"] = "distill"
    teacher: Checkpoint
    """The teacher whose predictions are the soft targets."""
    student: Student
    """What the student starts from: usually a prune run of the same teacher."""
    corpus: Corpus = SampleCorpus()
    """Text to distil and evaluate on."""


TeacherConfig.model_rebuild()
RunConfig = Annotated[TeacherConfig | PruneConfig | DistillConfig, Field(discriminator="kind")]
RUN_CONFIG: TypeAdapter[TeacherConfig | PruneConfig | DistillConfig] = TypeAdapter(RunConfig)
Kind = Literal["teacher", "prune", "distill"]


class PipelineConfig(Settings):
    """The whole method in one go: teacher, prune, distil, linked to each other.

    The student is pruned from this teacher and distilled on the teacher's corpus.
    """

    teacher: TeacherConfig = TeacherConfig()
    prune: PruneOptions = PruneOptions()
    distill: DistillOptions = DistillOptions()

    def prune_config(self, teacher: RunCheckpoint | FolderCheckpoint) -> PruneConfig:
        """The prune run of this pipeline, once the teacher's place is known."""
        return PruneConfig(teacher=teacher, **dict(self.prune))

    def distill_config(
        self,
        teacher: RunCheckpoint | FolderCheckpoint,
        student: RunCheckpoint | FolderCheckpoint,
    ) -> DistillConfig:
        """The distill run of this pipeline, once teacher's and student's places are known."""
        return DistillConfig(
            teacher=teacher, student=student, corpus=self.teacher.corpus, **dict(self.distill)
        )
