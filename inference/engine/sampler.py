"""Chooses the next token of many requests at once, each by its own parameters.

Invariants: a row's choice depends on its own logits, parameters, seed and step alone, never on its neighbours; a row
that cannot be served has an error of its own. The only randomness is one number a step, a hash of (seed, step), so
that the same seed gives the same text, and a generation that another worker takes over goes on as if nothing had been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from math import inf

import torch
from torch import Tensor

from inference.engine.candidates import Filters, draw, draw_from_all, likeliest, masses, sorted_row
from inference.engine.logprobs import read, tell
from inference.engine.penalties import Bias, Matcher, Penalties, ban, bias, penalise, restrict, upload
from inference.types import Logprob, Sampling

# How many of the likeliest tokens are looked at, until they suffice; after the last, all. Looking again waits for the
# device, which costs nothing on a CPU.
WIDTHS = {"cpu": (128, 1024), "cuda": (1024,)}
TEMPERATURES = (1e-30, 1e30)  # beyond them float32 knows only 0 and infinity, and the result is the same


class RowState:
    """One request's side of the sampling. For one thread; grammar may be set by whoever made it.

    resume_ids were sampled before, by another engine: they count as sampled. Ids are below `vocabulary`.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        prompt_ids: Sequence[int],
        resume_ids: Sequence[int],
        eos_ids: frozenset[int],
        vocabulary: int,
        device: torch.device,
    ) -> None:
        self.sampling = sampling
        self.sampled = len(resume_ids)
        self.grammar: Matcher | None = None
        self.penalties: Penalties | None = None
        self.bias = Bias(sampling.logit_bias, device) if sampling.logit_bias else None
        self._ends: Tensor | None = None
        if Penalties.wanted(sampling):
            self.penalties = Penalties(
                sampling, prompt_ids=prompt_ids, resume_ids=resume_ids, vocabulary=vocabulary, device=device
            )
        if self.sampled < sampling.min_tokens:
            ends = sorted(token for token in eos_ids | {*sampling.stop_ids} if token < vocabulary)
            self._ends = upload(ends, torch.int64, device)

    @property
    def banned(self) -> Tensor | None:
        """The tokens that may not come next, (N,) int64: those that would end the answer before min_tokens."""
        return self._ends if self.sampled < self.sampling.min_tokens else None

    @property
    def changes_logits(self) -> bool:
        return any(part is not None for part in (self.penalties, self.bias, self.grammar, self.banned))

    def take(self, token: int) -> None:
        """Count a token that the answer goes on with. The grammar is not told."""
        self.sampled += 1
        if self.penalties is not None:
            self.penalties.take(token)


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's next token, with its log-probability where asked for; or error, a sentence, and no token.

    broken: the error is in the logits and not in what the request asks for.
    """

    token: int | None
    logprob: Logprob | None = None
    error: str | None = None
    broken: bool = False


class Sampler:
    """Chooses the tokens of a step."""

    @torch.inference_mode()
    def choose(self, logits: Tensor, rows: Sequence[RowState]) -> list[Choice]:
        """One Choice a row of logits (B, V), of any float dtype; they are not changed. take() is up to the caller.

        Filters: temperature, top_k, top_p within what is left, min_p. Waits for the device once, and once more in
        the rare step in which WIDTHS was too narrow for a row.
        """
        choices: dict[int, Choice] = {}
        for width in (*WIDTHS[logits.device.type], 0):
            left = [n for n, row in enumerate(rows) if n not in choices and _suits(row.sampling, width)]
            if left:
                found = _attempt(_part(logits, left), [rows[n] for n in left], width)
                choices |= {n: choice for n, choice in zip(left, found, strict=True) if choice is not None}
        return [choices[n] for n in range(len(rows))]


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the step."""
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)


class _State(IntEnum):
    CHOSEN = 0
    BROKEN = 1
    BARRED = 2
    TOO_NARROW = 3


_ERRORS = {
    _State.BROKEN: "The model's logits are not finite.",
    _State.BARRED: "No token is allowed here.",
}


class _Way(Enum):
    """How a row's token is found; WIDE is for rows that the likeliest few do not suffice for."""

    GREEDY = auto()
    RANKED = auto()
    NUCLEUS = auto()
    WHOLE = auto()
    WIDE = auto()

    @classmethod
    def of(cls, sampling: Sampling, width: int) -> _Way:
        if sampling.temperature == 0:
            return cls.GREEDY
        if not sampling.top_k and sampling.top_p >= 1 and not sampling.min_p:
            return cls.WHOLE
        if not width:
            return cls.WIDE
        return cls.RANKED if sampling.top_k or sampling.top_p >= 1 else cls.NUCLEUS


def _suits(sampling: Sampling, width: int) -> bool:
    """Whether the `width` likeliest tokens can suffice."""
    return not width or sampling.top_k < width or _Way.of(sampling, width) is _Way.GREEDY


def _attempt(logits: Tensor, rows: Sequence[RowState], width: int) -> list[Choice | None]:
    """A Choice a row; None where `width` tokens were too few. Width 0 looks at all that matter."""
    tokens, states = _pick_all(logits, rows, width)
    asked = {n: row.sampling.top_logprobs for n, row in enumerate(rows) if row.sampling.top_logprobs is not None}
    parts = [torch.stack((tokens, states)).flatten().double()]  # float64 holds ids and float32 exactly
    if asked:
        parts.append(tell(_part(logits, [*asked]), _part(tokens, [*asked]), [*asked.values()], width).flatten())
    report = torch.cat(parts).cpu()
    chosen, ended = report[: 2 * len(rows)].view(2, -1).int().tolist()
    told = report[2 * len(rows) :].view(len(asked), -1).tolist() if asked else []
    choices = [_choice(token, _State(state)) for token, state in zip(chosen, ended, strict=True)]
    for (place, top), line in zip(asked.items(), told, strict=True):
        choice = choices[place]
        if choice is not None and choice.token is not None:
            logprob = read(line, choice.token, top)
            choices[place] = None if logprob is None else Choice(token=choice.token, logprob=logprob)
    return choices


def _choice(token: int, state: _State) -> Choice | None:
    if state is _State.TOO_NARROW:
        return None
    return (
        Choice(token=token)
        if state is _State.CHOSEN
        else Choice(None, error=_ERRORS[state], broken=state is _State.BROKEN)
    )


def _pick_all(logits: Tensor, rows: Sequence[RowState], width: int) -> tuple[Tensor, Tensor]:
    """Tokens and states, int64 of shape (B,); rows that change their logits and those that do not go apart."""
    order: list[int] = []
    picked: list[tuple[Tensor, Tensor]] = []
    for changing in (False, True):
        places = [n for n, row in enumerate(rows) if row.changes_logits is changing]
        if not places:
            continue
        members = [rows[n] for n in places]
        raw = _part(logits, places)
        scores = _changed(raw, members) if changing else raw
        for way in _Way:
            mine = [n for n, row in enumerate(members) if _Way.of(row.sampling, width) is way]
            if not mine:
                continue
            tokens, states = _pick(way, _part(scores, mine), [members[n] for n in mine], width)
            if changing:
                sound = _part(raw, mine).amax(-1).isfinite()
                states = states.where(sound & (states != _State.BROKEN), _State.BARRED).where(sound, _State.BROKEN)
            order += [places[n] for n in mine]
            picked.append((tokens, states))
    if len(picked) == 1:
        return picked[0]
    tokens, states = (torch.cat(pieces) for pieces in zip(*picked, strict=True))
    back = upload(order, torch.int64, logits.device).argsort()
    return tokens[back], states[back]


def _changed(logits: Tensor, rows: Sequence[RowState]) -> Tensor:
    """A float32 copy of logits (S, V), changed as the rows want it: penalties, biases, then what is forbidden."""
    scores = logits.to(torch.float32, copy=True)
    penalise(scores, [(n, row.penalties) for n, row in enumerate(rows) if row.penalties is not None])
    bias(scores, [(n, row.bias) for n, row in enumerate(rows) if row.bias is not None])
    ban(scores, [(n, row.banned) for n, row in enumerate(rows) if row.banned is not None])
    restrict(scores, [(n, row.grammar) for n, row in enumerate(rows) if row.grammar is not None])
    return scores


def _pick(way: _Way, logits: Tensor, rows: Sequence[RowState], width: int) -> tuple[Tensor, Tensor]:
    """Tokens and states, int64 of shape (S,), of rows that go the same way."""
    if way is _Way.WIDE:
        tokens, peaks = _pick_wide(logits, rows)
    elif way is _Way.GREEDY:
        peaks, tokens = logits.max(-1)
    elif way is _Way.WHOLE:
        tokens, peaks = draw_from_all(logits, _filters(rows, logits))
    else:
        filters, head = _filters(rows, logits), likeliest(logits, width)
        totals = masses(logits, head.peaks, filters.temperature) if way is _Way.NUCLEUS else None
        tokens, enough = draw(head, filters, totals)
        states = torch.where(enough, _State.CHOSEN.value, _State.TOO_NARROW.value)
        return tokens, states.where(head.peaks[:, 0].isfinite(), _State.BROKEN)
    return tokens, torch.where(peaks.isfinite(), _State.CHOSEN.value, _State.BROKEN.value)


def _pick_wide(logits: Tensor, rows: Sequence[RowState]) -> tuple[Tensor, Tensor]:
    """Tokens and peaks (S,) of logits (S, V), each from as many of the likeliest tokens as may matter."""
    filters, peaks = _filters(rows, logits), logits.amax(-1, keepdim=True).float()
    totals = masses(logits, peaks, filters.temperature)
    # All tokens less likely than this are together less than half of what top_p leaves out.
    by_mass = (2 * logits.shape[1] / ((1 - filters.top_p).clamp(min=0) * totals)).log()
    by_share = -filters.min_p.log() * (1 + 1e-6)
    limits = (by_mass.minimum(by_share) * filters.temperature).float()
    tokens = []
    for n, row in enumerate(rows):
        if row.sampling.top_k:
            tokens.append(draw(sorted_row(logits[n]), filters.row(n))[0])
        else:
            tokens.append(draw(sorted_row(logits[n], limits[n]), filters.row(n), totals[n : n + 1])[0])
    return torch.cat(tokens), peaks[:, 0]


def _filters(rows: Sequence[RowState], logits: Tensor) -> Filters:
    vocabulary, device = logits.shape[1], logits.device
    numbers = [
        (
            min(max(row.sampling.temperature, TEMPERATURES[0]), TEMPERATURES[1]),
            min(row.sampling.top_k or vocabulary, vocabulary),
            row.sampling.top_p if row.sampling.top_p < 1 else inf,
            row.sampling.min_p,
            uniform(row.sampling.seed, row.sampled),
        )
        for row in rows
    ]
    temperature, top_k, top_p, min_p, point = torch.split(upload(numbers, torch.float64, device), 1, dim=1)
    return Filters(temperature=temperature, top_k=top_k.long(), top_p=top_p, min_p=min_p, point=point)


def _part(tensor: Tensor, places: Sequence[int]) -> Tensor:
    """The rows at `places`, in ascending order; a copy only where that is not all of them."""
    if len(places) == len(tensor):
        return tensor
    return tensor.index_select(0, upload(places, torch.int64, tensor.device))
