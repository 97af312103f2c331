"""From token ids to text, piece by piece and in whole characters only."""

from __future__ import annotations

from tokenizers.decoders import ByteLevel, DecodeStream
from transformers import PreTrainedTokenizerFast

REPLACEMENT = "\ufffd"
HELD_TOKENS = 16  # a character has at most 4 bytes: so long a run that never ends with a whole one is suspect


class TextStream:
    """The text of one answer. feed() each sampled id, flush() where it ends or breaks off; the pieces joined are it.

    Bytes that never become a character appear as U+FFFD where text follows them; the last of them are left out.
    Special tokens give no text.

    Where a token's bytes are its own whatever stands beside it (byte-level tokenizers), tokenizers' DecodeStream
    decodes: 0.8 µs a token. It raises where bytes make others before them invalid (byte fallback), and decodes a run
    that never becomes a character again and again: there a window of ids is decoded, 1.6 µs a token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, special: frozenset[int] | None = None) -> None:
        """special: the ids of special_ids(), for callers that make many."""
        self._backend = tokenizer.backend_tokenizer
        self._special = special_ids(tokenizer) if special is None else special
        self._streams = isinstance(self._backend.decoder, ByteLevel)
        self._stream = self._new_stream()
        self._context: list[int] = []  # ids already given out: some decoders treat the start of a text differently
        self._pending: list[int] = []  # ids whose last character may be incomplete

    def feed(self, token_id: int) -> str:
        """The text that this token completes, often "": half a character is held back."""
        if token_id in self._special:
            return ""
        self._pending.append(token_id)
        if self._stream is not None:
            text: str | None = self._stream.step(self._backend, token_id)
            if text is not None:
                self._pending.clear()
                return text
            if len(self._pending) < HELD_TOKENS:
                return ""
            self._stream = None
        return self._feed_window()

    def flush(self) -> str:
        """What was held back, without an incomplete last character."""
        if not self._pending:
            return ""
        tail = self._decode_pending().rstrip(REPLACEMENT)
        self._context, self._pending = [], []
        self._stream = self._new_stream()
        return tail

    def _new_stream(self) -> DecodeStream | None:
        return DecodeStream(skip_special_tokens=True) if self._streams else None

    def _feed_window(self) -> str:
        text = self._decode_pending()
        if text.endswith(REPLACEMENT):
            return self._settled_part(text)
        self._stream = self._new_stream()
        self._context, self._pending = [] if self._streams else self._pending, []
        return text

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


def special_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The tokens that shape a conversation and are no text."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return frozenset(token_id for token_id, token in added.items() if token.special)
