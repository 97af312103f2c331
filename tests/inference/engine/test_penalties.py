from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from inference.engine.penalties import Penalties, penalise
from inference.engine.sampler import Sampler
from inference.types import Sampling
from tests.inference.engine.sampled import CPU, EOS, Allowed, choose, draws, gaussian, row


def penalised(logits: list[float], sampling: Sampling, *, taken: Sequence[int] = ()) -> list[float]:
    """Logits after the penalties of a request with the prompt 0 1 1, which goes on from 1 4."""
    penalties = Penalties(sampling, prompt_ids=[0, 1, 1], resume_ids=[1, 4], vocabulary=len(logits), device=CPU)
    for token in taken:
        penalties.take(token)
    changed = torch.tensor([[9.0] * len(logits), logits])
    penalise(changed, [(1, penalties)])
    assert changed[0].tolist() == [9.0] * len(logits)
    return changed[1].tolist()


def test_penalties_change_the_logits_as_computed_by_hand() -> None:
    logits = [2.0, -2.0, 0.0, 1.0, 4.0]
    assert penalised(logits, Sampling(repetition_penalty=2.0), taken=[4]) == [1.0, -4.0, 0.0, 1.0, 2.0]
    assert penalised(logits, Sampling(repetition_penalty=2.0), taken=[3]) == [1.0, -4.0, 0.0, 0.5, 2.0]
    assert penalised(logits, Sampling(presence_penalty=0.5), taken=[4]) == [2.0, -2.5, 0.0, 1.0, 3.5]
    assert penalised(logits, Sampling(frequency_penalty=0.5), taken=[4]) == [2.0, -2.5, 0.0, 1.0, 3.0]
    every = Sampling(repetition_penalty=2.0, presence_penalty=-1.0, frequency_penalty=0.25)
    assert penalised(logits, every, taken=[4, 2]) == [1.0, -3.25, 0.75, 1.0, 2.5]


def test_a_taken_token_counts_for_the_next_choice_only() -> None:
    logits = torch.tensor([1.0, 0.9, 0.8])
    state = row(Sampling(temperature=0, presence_penalty=0.5), 3)
    chosen = []
    for _ in range(3):
        (choice,) = Sampler().choose(logits[None], [state])
        assert choice.token is not None
        state.take(choice.token)
        chosen.append(choice.token)
    assert chosen == [0, 1, 2]


def test_a_bias_of_a_hundred_forces_a_token_and_its_negative_forbids_one() -> None:
    logits = gaussian(500, 3, 2)
    best = int(logits.argmax())
    assert draws(logits, Sampling(temperature=1, logit_bias=((17, 100.0),)), 50) == {17: 50}
    assert best not in draws(logits, Sampling(temperature=1, logit_bias=((best, -100.0),)), 200)
    assert choose(logits, Sampling(temperature=0, logit_bias=((best, -100.0),))).token == int(logits.topk(2).indices[1])


def test_an_answer_cannot_end_before_min_tokens() -> None:
    logits = torch.tensor([0.0, 1.0, 9.0, 8.0])  # the likeliest are the model's end and the request's own
    sampling = Sampling(temperature=0, min_tokens=3, stop_ids=(3,))
    found = [choose(logits, sampling, step=step).token for step in range(5)]
    assert found == [1, 1, 1, EOS, EOS]
    assert choose(logits, sampling, resumed=(1, 1, 1)).token == EOS


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_leaves_only_what_it_allows(packed: bool, temperature: float) -> None:
    logits, rows = gaussian(70, 1, 4), [row(Sampling(temperature=temperature, seed=n), 70) for n in range(200)]
    for state in rows:
        state.grammar = Allowed([0, 31, 32, 63, 69], 70, packed=packed)
    found = {choice.token for choice in Sampler().choose(logits.expand(200, -1), rows)}
    assert found == ({0, 31, 32, 63, 69} if temperature else {max([0, 31, 32, 63, 69], key=lambda n: float(logits[n]))})


@pytest.mark.parametrize("vocabulary", [10, 9000])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_log_probabilities_are_those_of_the_model_before_any_parameter(temperature: float, vocabulary: int) -> None:
    logits = gaussian(vocabulary, 2, 3, rough=True)
    expected = logits.log_softmax(0).tolist()
    order = sorted(range(vocabulary), key=lambda token: (-expected[token], token))
    sampling = Sampling(temperature=temperature, top_p=0.5, presence_penalty=2.0, top_logprobs=20)
    for top in (0, 1, 20):
        choice = choose(logits, replace(sampling, top_logprobs=top), resumed=(order[0],))
        assert choice.logprob is not None
        assert choice.logprob.token_id == choice.token
        assert choice.logprob.logprob == expected[choice.token or 0]
        assert choice.logprob.top == tuple((token, expected[token]) for token in order[:top])
    assert choose(logits, replace(sampling, top_logprobs=None)).logprob is None


def test_alternatives_among_many_equals_are_the_first_and_what_is_impossible_is_none() -> None:
    flat = choose(torch.zeros(5000), Sampling(temperature=0, top_logprobs=3)).logprob
    assert flat is not None
    assert [token for token, _ in flat.top] == [0, 1, 2]
    few = torch.full((5000,), -torch.inf)
    few[[40, 7]] = torch.tensor([0.0, 1.0])
    left = choose(few, Sampling(temperature=0, top_logprobs=20)).logprob
    assert left is not None
    assert [token for token, _ in left.top] == [7, 40]
