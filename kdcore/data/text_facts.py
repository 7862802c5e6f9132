"""What a tokenizer loses of a text, in numbers: unknown tokens and removed characters.

Counted while the text is tokenised and kept beside its ids; imports no torch.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kdcore.data.vocabulary import marks_in
from kdcore.errors import DataError
from kdcore.events import Level, Log, Sink

WARN_ABOVE = 0.01
REFUSE_ABOVE = 0.5
_EXAMPLES = 5
_EXAMPLE_CHARS = 20
_LONGEST_WORD = 100


@dataclass
class TextFacts:
    """Counts of one split; characters are those of the text itself, white space left out."""

    documents: int = 0
    """Documents (pieces of at most 100,000 characters) that became lines."""
    blank_documents: int = 0
    """Rows without text, and documents of which the tokenizer leaves nothing."""
    tokens: int = 0
    """[CLS] and [SEP] of the lines left out."""
    unknown_tokens: int = 0
    special_tokens: int = 0
    """That the text itself spells, unknown tokens left out."""
    characters: int = 0
    unknown_characters: int = 0
    """Inside unknown tokens."""
    removed_characters: int = 0
    """Accents, vowel signs, control characters and others that the tokenizer removes."""
    unknown_examples: list[str] = field(default_factory=list)

    @property
    def unknown_token_share(self) -> float:
        return self.unknown_tokens / max(1, self.tokens)

    @property
    def unknown_character_share(self) -> float:
        return self.unknown_characters / max(1, self.characters)

    @property
    def _unknown_share(self) -> float:
        """The larger of both: one token may hold most of the characters."""
        return max(self.unknown_token_share, self.unknown_character_share)

    @property
    def removed_character_share(self) -> float:
        return self.removed_characters / max(1, self.characters)

    def add_unknown(self, text: str, spans: Iterable[tuple[int, int]]) -> None:
        """Count the characters of unknown tokens; `spans` are their places in `text`."""
        counted = 0
        for start, end in spans:
            # Several tokens may stand for the bytes of one character.
            self.unknown_characters += len("".join(text[max(start, counted) : end].split()))
            counted = max(counted, end)
            if len(self.unknown_examples) < _EXAMPLES:
                example = text[start:end]
                if end - start > _EXAMPLE_CHARS:
                    example = f"{example[:_EXAMPLE_CHARS]}... ({end - start} characters)"
                if example not in self.unknown_examples:
                    self.unknown_examples.append(example)

    def add_characters(self, counts: Counter[str], core: Any) -> None:
        """Count the text's characters, and what normaliser and pre-tokenizer remove of them.

        Each is looked at alone, so that removed sequences of several are not seen.
        """
        for character, count in counts.items():
            if character.isspace():
                continue
            self.characters += count
            self.removed_characters += count * _removed(character, core)

    def figures(self, prefix: str = "") -> dict[str, float]:
        """The shares as figures of a result."""
        return {
            f"{prefix}unknown_token_share": self.unknown_token_share,
            f"{prefix}unknown_character_share": self.unknown_character_share,
            f"{prefix}removed_character_share": self.removed_character_share,
        }

    def say(self, name: str, sink: Sink) -> None:
        """Log what was found in the text `name`; warn about what is lost."""
        level: Level = "warning" if self._unknown_share > WARN_ABOVE else "info"
        unknown = f"{name}: {self.unknown_token_share:.2%} of the tokens are unknown"
        if self.unknown_tokens:
            unknown += (
                f", {self.unknown_character_share:.2%} of the characters are inside them, such as "
                f"{self._examples()}"
            )
        sink.emit(Log(level=level, message=unknown))
        if self.removed_characters:
            level = "warning" if self.removed_character_share > WARN_ABOVE else "info"
            removed = (
                f"{name}: the tokenizer removes {self.removed_character_share:.2%} of the "
                "characters, such as accents, vowel signs and control characters; a WordPiece "
                "tokenizer trained with strip_accents 'never' keeps accents and vowel signs"
            )
            sink.emit(Log(level=level, message=removed))
        if self.blank_documents or self.special_tokens:
            rest = (
                f"{name}: {self.documents:,} documents used, {self.blank_documents:,} empty "
                "documents skipped; special tokens that the text itself spells: "
                f"{self.special_tokens:,}"
            )
            sink.emit(Log(message=rest))

    def refuse_unknown(self, name: str) -> None:
        """Raise DataError if more than half of the tokens, or of the characters, are unknown."""
        if self._unknown_share <= REFUSE_ABOVE:
            return
        advice = "use a tokenizer that was made for such text, or train a larger one on it"
        if self.unknown_characters > _LONGEST_WORD * self.unknown_tokens:
            advice = (
                f"WordPiece turns words of more than {_LONGEST_WORD} characters into [UNK]; put "
                "spaces between words, or use a tokenizer of another kind"
            )
        raise DataError(
            f"{name}: {self.unknown_token_share:.0%} of the tokens are unknown to the tokenizer, "
            f"with {self.unknown_character_share:.0%} of the characters inside them, such as "
            f"{self._examples()}: {advice}"
        )

    def _examples(self) -> str:
        return ", ".join(f"'{example}'" for example in self.unknown_examples)


def _removed(character: str, core: Any) -> int:
    left = core.normalizer.normalize_str(character) if core.normalizer else character
    marks = marks_in(character)
    if not left.strip() or (core.pre_tokenizer and not core.pre_tokenizer.pre_tokenize_str(left)):
        return max(1, marks)
    return max(0, marks - marks_in(left))
