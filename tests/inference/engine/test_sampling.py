from __future__ import annotations

from collections import Counter

import pytest
import torch

from inference.engine.sampling import NUCLEUS_WIDTH, NotFinite, choose, uniform
from inference.types import Sampling

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -30.0]])


def shares(sampling: Sampling, logits: torch.Tensor = LOGITS, draws: int = 4000) -> dict[int, float]:
    counted = Counter(choose(logits, sampling, step) for step in range(draws))
    return {token: count / draws for token, count in counted.items()}


def test_temperature_zero_takes_the_likeliest_whatever_the_filters() -> None:
    assert {choose(LOGITS, Sampling(temperature=0, top_k=3, top_p=0.5, seed=s), s) for s in range(20)} == {0}


def test_the_same_seed_and_step_give_the_same_token_and_others_differ() -> None:
    flat = torch.zeros(1, 1000)
    first = [choose(flat, Sampling(temperature=1, seed=7), step) for step in range(50)]
    assert first == [choose(flat, Sampling(temperature=1, seed=7), step) for step in range(50)]
    assert first != [choose(flat, Sampling(temperature=1, seed=8), step) for step in range(50)]
    assert len(set(first)) > 40


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    expected = (LOGITS[0] / temperature).softmax(0)
    found = shares(Sampling(temperature=temperature, seed=1))
    for token, probability in enumerate(expected.tolist()):
        assert found.get(token, 0.0) == pytest.approx(probability, abs=0.03)


def test_top_k_keeps_the_k_likeliest_in_their_proportions() -> None:
    found = shares(Sampling(temperature=1, top_k=2, seed=1))
    assert set(found) == {0, 1}
    assert found[0] == pytest.approx(0.731, abs=0.03)


def test_top_p_keeps_the_shortest_head_that_reaches_it() -> None:
    # probabilities 0.644, 0.237, 0.087, 0.032
    assert set(shares(Sampling(temperature=1, top_p=0.6))) == {0}
    assert set(shares(Sampling(temperature=1, top_p=0.65))) == {0, 1}
    assert set(shares(Sampling(temperature=1, top_p=0.9))) == {0, 1, 2}


def test_top_p_is_taken_within_top_k() -> None:
    # of the two likeliest alone the first has 0.731
    assert set(shares(Sampling(temperature=1, top_k=2, top_p=0.7))) == {0}


def test_a_nucleus_wider_than_the_short_cut_is_exact() -> None:
    flat = torch.zeros(1, 5 * NUCLEUS_WIDTH)
    found = {choose(flat, Sampling(temperature=1, top_p=0.99, seed=3), step) for step in range(300)}
    assert len(found) > 250


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    assert set(shares(Sampling(temperature=1e-30), draws=20)) == {0}


def test_forbidden_tokens_are_never_chosen() -> None:
    logits = torch.full((1, 50), float("-inf"))
    logits[0, 31] = -5.0
    assert set(shares(Sampling(temperature=2), logits, draws=50)) == {31}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_are_an_error_and_no_token(value: float, temperature: float) -> None:
    with pytest.raises(NotFinite):
        choose(torch.tensor([[0.0, value, 1.0]]), Sampling(temperature=temperature), 0)


def test_the_numbers_of_a_seed_are_even_and_stay_the_same() -> None:
    numbers = [uniform(5, step) for step in range(2000)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)
    assert uniform(5, 0) == numbers[0]
