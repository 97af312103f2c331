"""From token ids to text, piece by piece: whole characters only, and nothing that may belong to a stop string."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

REPLACEMENT = "\ufffd"
HELD_TOKENS = 16  # a character has at most 4 bytes: so long a run that never ends with a whole one is suspect


class TextStream:
    """The text of one answer. feed() each sampled id, flush() once at the end; the pieces joined are the answer.

    Bytes that never become a character appear as U+FFFD where text follows them; the last of them are left out.
    Special tokens give no text. After a stop string `stopped` is true: the text ends before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Iterable[str] = ()) -> None:
        self.stopped = False
        self._backend = tokenizer.backend_tokenizer
        self._special = frozenset(i for i, t in self._backend.get_added_tokens_decoder().items() if t.special)
        self._context: list[int] = []  # ids already given out: some decoders treat the start of a text differently
        self._pending: list[int] = []  # ids whose last character may be incomplete
        self._stop = tuple(stop)
        self._held = ""  # text that may be the beginning of a stop string

    def feed(self, token_id: int) -> str:
        """The text that this token completes, often "": half a character or a possible stop string is held back."""
        if self.stopped or token_id in self._special:
            return ""
        self._pending.append(token_id)
        text = self._decode_pending()
        if text.endswith(REPLACEMENT):
            return self._release(self._settled_part(text))
        self._context, self._pending = self._pending, []
        return self._release(text)

    def flush(self) -> str:
        """What was held back, without an incomplete last character; "" after a stop string."""
        tail = ""
        if self._pending and not self.stopped:
            tail = self._release(self._decode_pending().rstrip(REPLACEMENT))
        if not self.stopped:
            tail += self._held
        self._held, self._pending = "", []
        return tail

    def _decode(self, ids: list[int]) -> str:
        text: str = self._backend.decode(ids, skip_special_tokens=True)
        return text

    def _decode_pending(self) -> str:
        known = self._decode(self._context) if self._context else ""
        return self._decode(self._context + self._pending)[len(known) :]

    def _settled_part(self, text: str) -> str:
        """The part of `text` that no later token can change, looked for now and then in a long run without whole text.

        Without it a model that babbles bytes would be decoded from the start of the run for each of them. The last
        three tokens stay: they may be the beginning of a character of four bytes.
        """
        if len(self._pending) % HELD_TOKENS:
            return ""
        for cut in range(len(self._pending) - 3, 0, -1):
            settled, rest = self._pending[:cut], self._pending[cut:]
            if (head := self._decode(settled)) + self._decode(rest) == text:
                self._context, self._pending = [], rest
                return head
        return ""

    def _release(self, text: str) -> str:
        """`text` after what is held, up to a stop string or to what may become one."""
        if not self._stop or not text:
            return text
        text, self._held = self._held + text, ""
        found = [place for word in self._stop if (place := text.find(word)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        keep = self._possible_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _possible_stop(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            if any(word.startswith(text[-length:]) for word in self._stop):
                return length
        return 0
