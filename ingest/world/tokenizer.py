"""A word tokenizer for the embedded world's captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import torch

from .captions import every_phrase

CONTEXT_LENGTH: Final = 24

_PAD, _START, _UNKNOWN, _END = "<pad>", "<start>", "<unknown>", "<end>"
_WORD: Final = re.compile(r"[a-z]+")
_ANY_WORD: Final = re.compile(r"[^\W\d_]+")


def _vocabulary() -> tuple[str, ...]:
    words = {word for phrase in every_phrase() for word in _WORD.findall(phrase)}
    # open_clip reads the text embedding where the token id is largest: the end token comes last.
    return (_PAD, _START, _UNKNOWN, *sorted(words), _END)


class WordTokenizer:
    """Texts to token ids, called like open_clip's tokenizers.

    Words are lower case letters; anything else separates them. Words out of the vocabulary become
    one unknown token, and texts are cut to the context length.
    """

    def __init__(self, context_length: int = CONTEXT_LENGTH) -> None:
        self.context_length = context_length
        self.vocabulary: tuple[str, ...] = _vocabulary()
        self._ids = {word: i for i, word in enumerate(self.vocabulary)}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the four special ones included."""
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        """Ids of a text's words, without start, end or padding."""
        unknown = self._ids[_UNKNOWN]
        return [self._ids.get(word, unknown) for word in _WORD.findall(text.lower())]

    @property
    def words(self) -> tuple[str, ...]:
        """All words that it knows, sorted."""
        return self.vocabulary[3:-1]

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that are out of the vocabulary, each once."""
        found = dict.fromkeys(_ANY_WORD.findall(text.lower()))
        return [word for word in found if word not in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of ids, special tokens left out."""
        words = (self.vocabulary[i] for i in ids)
        return " ".join(word for word in words if not word.startswith("<"))

    def __call__(
        self, texts: str | Sequence[str], context_length: int | None = None
    ) -> torch.Tensor:
        """Token ids int64 [texts, context_length]: start, words, end, padding."""
        length = context_length or self.context_length
        texts = [texts] if isinstance(texts, str) else texts
        ids = torch.zeros(len(texts), length, dtype=torch.int64)
        start, end = self._ids[_START], self._ids[_END]
        for row, text in enumerate(texts):
            tokens = [start, *self.encode(text)[: length - 2], end]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids
