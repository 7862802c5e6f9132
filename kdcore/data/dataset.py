"""The text of a run: its tokenised corpus and the held-out split."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.config import Corpus, Evaluation
from kdcore.data.batching import Packed, pack
from kdcore.data.corpora import CorpusText, open_corpus
from kdcore.data.text_facts import TextFacts
from kdcore.data.token_cache import TokenisedSplit, tokenise, unigram_entropy
from kdcore.data.tokenizers import TokenizerInfo
from kdcore.distributed.process_group import SINGLE_PROCESS, Ranks
from kdcore.events import Log, Sink


@dataclass(frozen=True)
class HeldOut:
    """The held-out sequences and how they are masked."""

    packed: Packed
    tokenizer: TokenizerInfo
    mask_rate: float
    max_sequences: int | None

    def __len__(self) -> int:
        return min(len(self.packed), self.max_sequences or len(self.packed))


@dataclass(frozen=True)
class Text:
    """A tokenised corpus."""

    tokenizer: TokenizerInfo
    train: TokenisedSplit
    held_out: HeldOut
    unigram_entropy: float
    """Of the held-out text, in nats: the loss of a model that knows token frequencies only."""
    fingerprint: str
    held_out_facts: TextFacts

    def figures(self) -> dict[str, Any]:
        """What the tokenizer made of the text, as figures of a result."""
        facts = self.train.facts
        counts = {"documents": facts.documents, "blank_documents": facts.blank_documents}
        shares = facts.figures() | self.held_out_facts.figures("eval_")
        notes = {"tokenizer_notes": list(self.tokenizer.remarks)} if self.tokenizer.remarks else {}
        return counts | shares | notes


def read_text(
    corpus_config: Corpus,
    load: Callable[[CorpusText], TokenizerInfo],
    evaluation: Evaluation,
    eval_seq_len: int,
    sink: Sink,
    cache_dir: Path,
    ranks: Ranks = SINGLE_PROCESS,
) -> Text:
    with ranks.main_process_first():  # the other ranks then read it from the cache
        corpus = open_corpus(corpus_config)
        tokenizer = load(corpus)
        train = tokenise(corpus, tokenizer, "train", cache_dir, sink)
        validation = tokenise(corpus, tokenizer, "validation", cache_dir, sink)
    for name, split in (("the training text", train), ("the held-out text", validation)):
        split.facts.say(name, sink)
        split.facts.refuse_unknown(name)
    held_out = HeldOut(
        packed=pack(validation, eval_seq_len, "the held-out text"),
        tokenizer=tokenizer,
        mask_rate=evaluation.mask_rate,
        max_sequences=evaluation.max_sequences,
    )
    entropy = unigram_entropy(validation, tokenizer.vocab_size, tokenizer.special_ids)
    sink.emit(
        Log(
            message=f"{len(train.token_ids):,} training tokens, "
            f"{len(validation.token_ids):,} held out; the held-out text's unigram entropy is "
            f"{entropy:.3f} nats"
        )
    )
    return Text(tokenizer, train, held_out, entropy, corpus.fingerprint, validation.facts)
