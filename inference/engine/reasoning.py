"""How a model's tokens become the text of an answer in two channels: what is the same for all answers of a model."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from inference.engine.answer import AnswerText
from inference.engine.channels import Splitter, Whole
from inference.engine.harmony import HarmonySplitter, Mark
from inference.engine.tags import TagSplitter
from inference.engine.text import TextStream, special_ids
from inference.types import Reasoning, ReasoningFormat

# As far back from a prompt's end as a delimiter is looked for.
TAIL_TOKENS = 32


class AnswerFormat:
    """Makes the AnswerText of each answer. Raises ValueError for a format that the tokenizer has not the tokens for.

    The end of the rendered prompt says where an answer begins: some templates open the block of reasoning themselves.
    opening: the token that opens a block, where it is a single one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, reasoning: Reasoning | None) -> None:
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        self._reasoning = reasoning
        self.opening: int | None = None
        self._marks: dict[int, Mark] = {}
        self._delimiters: dict[int, str] = {}
        if reasoning is None:
            return
        if reasoning.format is ReasoningFormat.HARMONY:
            self._marks = {self._token(mark.value): mark for mark in Mark}
        elif not reasoning.open or not reasoning.close:
            raise ValueError("Reasoning in tags needs both an opening and a closing one.")
        else:
            ids = {text: tokenizer.convert_tokens_to_ids(text) for text in (reasoning.open, reasoning.close)}
            self._delimiters = {token: text for text, token in ids.items() if token in self._special}
            opening = tokenizer.backend_tokenizer.encode(reasoning.open, add_special_tokens=False).ids
            self.opening = opening[0] if len(opening) == 1 else None

    def answer(self, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> AnswerText:
        """The text of an answer to this prompt."""
        return AnswerText(TextStream(self._tokenizer, self._special), self._splitter(prompt_ids), stop)

    def _splitter(self, prompt_ids: Sequence[int]) -> Splitter:
        if self._reasoning is None:
            return Whole()
        if self._marks:
            return HarmonySplitter(self._marks, self._header(prompt_ids))
        tail = self._tokenizer.backend_tokenizer.decode(list(prompt_ids[-TAIL_TOKENS:]), skip_special_tokens=False)
        return TagSplitter(
            self._reasoning.open,
            self._reasoning.close,
            special=self._delimiters,
            opened=tail.rstrip().endswith(self._reasoning.open),
        )

    def _header(self, prompt_ids: Sequence[int]) -> list[int | str]:
        """What the prompt has of the first message, from its last start on: marks, and the text between them."""
        stream = TextStream(self._tokenizer, self._special)
        header: list[int | str] = []
        for token in prompt_ids[-TAIL_TOKENS:]:
            if self._marks.get(token) is Mark.START:
                header.clear()
            header.append(token if token in self._marks else stream.feed(token))
        return header

    def _token(self, text: str) -> int:
        token = self._tokenizer.get_added_vocab().get(text)
        if token is None:
            raise ValueError(f"The model's tokenizer has no token {text}, which its format of reasoning needs.")
        return int(token)
