from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inference.engine.sampler import Choice, RowState, Sampler, uniform
from inference.types import Sampling
from tests.inference.engine.sampled import DRAWS, Allowed, choose, draws, gaussian, row

EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True)


def plainly(logits: Tensor, sampling: Sampling, step: int) -> int:
    """The token by the definitions: everything sorted, in float64, one loop after the other."""
    gaps = (logits.float().max() - logits.float()).tolist()
    order = sorted(range(len(gaps)), key=lambda token: (gaps[token], token))
    if sampling.temperature == 0:
        return order[0]
    if not sampling.top_k and sampling.top_p == 1 and not sampling.min_p:
        order.sort()
    weights = [math.exp(max(-gaps[token] / sampling.temperature, -1e5)) for token in order]
    if sampling.top_k:
        weights = weights[: sampling.top_k]
    if sampling.top_p < 1:
        total, before, kept = sum(weights), 0.0, 0
        while kept < len(weights) and (before < sampling.top_p * total or not kept):
            before += weights[kept]
            kept += 1
        weights = weights[:kept]
    weights = [weight for weight in weights if weight >= sampling.min_p]
    point, reached = uniform(sampling.seed, step) * sum(weights), 0.0
    for token, weight in zip(order, weights, strict=False):
        reached += weight
        if reached > point:
            return token
    raise AssertionError("nothing was left to draw from")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-320, 1e-30, 0.05, 0.8, 1.0, 2.0, 1e300]),
    top_k=st.sampled_from([0, 0, 1, 2, 50, 127, 128, 500, 1023, 1024, 3000, 10**9]),
    top_p=st.sampled_from(
        [1.0, 1.0, 1e-9, 0.10371, 0.5033, 0.9507, 0.99913]  # no sums that meet them exactly
    ),
    min_p=st.sampled_from([0.0, 0.0, 0.0, 1e-4, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)


@given(
    sampling=samplings,
    vocabulary=st.sampled_from([1, 2, 7, 100, 129, 1000, 4099, 6007]),
    spread=st.sampled_from([0.0, 0.1, 1.0, 4.0, 30.0]),
    rough=st.booleans(),
    seed=st.integers(0, 1000),
)
@EXAMPLES
def test_the_token_is_the_one_that_a_plain_reading_of_the_definitions_gives(
    sampling: Sampling, vocabulary: int, spread: float, rough: bool, seed: int
) -> None:
    logits = gaussian(vocabulary, spread, seed, rough=rough)
    if sampling.temperature == 1e300 and spread:
        logits[0] = -torch.inf if vocabulary > 1 else 0.0
    steps = range(3)
    rows = [row(sampling, vocabulary, step=step) for step in steps]
    found = [choice.token for choice in Sampler().choose(logits.expand(3, -1), rows)]
    assert found == [plainly(logits, sampling, step) for step in steps]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_logits_of_every_float_type_are_taken_and_left_as_they_were(dtype: torch.dtype) -> None:
    logits = gaussian(3000, 4, 1).to(dtype)
    before = logits.clone()
    sampling = Sampling(
        temperature=0.8, top_p=0.9, seed=3, logit_bias=((5, 3.0),), presence_penalty=1.0, top_logprobs=2
    )
    changed = logits.float().clone()
    changed[5] += 3
    assert choose(logits, sampling).token == plainly(changed, sampling, 0)
    assert torch.equal(logits, before)


def any_row(number: int, vocabulary: int, chance: random.Random) -> RowState:
    pick = chance.choice
    seen = [chance.randrange(vocabulary) for _ in range(40)]
    sampling = Sampling(
        temperature=pick([0.0, 0.3, 0.8, 1.0, 1.7]),
        top_k=pick([0, 0, 1, 50, 200, 2000]),
        top_p=pick([1.0, 0.5, 0.95, 0.999]),
        min_p=pick([0.0, 0.0, 0.02]),
        min_tokens=pick([0, 0, 10**6]),
        max_tokens=10**6,
        stop_ids=(7, 11),
        repetition_penalty=pick([1.0, 1.0, 1.3]),
        presence_penalty=pick([0.0, 0.0, 1.0]),
        frequency_penalty=pick([0.0, 0.0, -0.5]),
        logit_bias=pick([(), (), ((3, 100.0), (4, -100.0)), ((9, 2.5),)]),
        top_logprobs=pick([None, None, 0, 1, 20]),
        seed=number,
    )
    state = row(sampling, vocabulary, prompt=seen[:20], resumed=seen[20:])
    if chance.random() < 0.2:
        state.grammar = Allowed(seen, vocabulary, packed=chance.random() < 0.5)
    return state


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_a_row_is_answered_alike_alone_and_among_any_others(seed: int, dtype: torch.dtype) -> None:
    # More tokens than torch gives to one thread: a sum over a single row would be split, and rounded otherwise.
    vocabulary, chance = 40_003, random.Random(seed)
    logits = torch.stack([gaussian(vocabulary, chance.choice([1, 3, 6]), 100 * seed + n) for n in range(32)]).to(dtype)
    rows = [any_row(n, vocabulary, chance) for n in range(32)]
    logits[chance.randrange(32), 5] = torch.nan
    alone = [Sampler().choose(logits[n : n + 1], rows[n : n + 1])[0] for n in range(32)]
    assert Sampler().choose(logits, rows) == alone
    order = chance.sample(range(32), 13)
    assert Sampler().choose(logits[order], [rows[n] for n in order]) == [alone[n] for n in order]


def test_greedy_takes_the_first_of_the_likeliest_whatever_the_filters() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 3.0])
    for sampling in (Sampling(temperature=0), Sampling(temperature=0, top_k=2, top_p=0.3, min_p=0.5)):
        assert draws(logits, sampling, 20) == {1: 20}


def test_equal_logits_at_the_end_of_top_k_are_kept_in_the_order_of_their_ids() -> None:
    logits = torch.zeros(5000)
    logits[4999] = 1.0
    assert set(draws(logits, Sampling(temperature=5, top_k=4), 300)) == {4999, 0, 1, 2}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1),
        Sampling(temperature=1, top_p=0.95),
        Sampling(temperature=1, top_k=50),
        Sampling(temperature=1, min_p=0.1),
    ],
)
@pytest.mark.parametrize("vocabulary", [1, 40, 6000])
def test_all_mass_in_one_token_leaves_that_one(sampling: Sampling, vocabulary: int) -> None:
    logits = torch.full((vocabulary,), -torch.inf)
    logits[-1] = -5.0
    assert draws(logits, sampling, 20) == {vocabulary - 1: 20}


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 30}, {"min_p": 0.02}, {"top_p": 0.7, "min_p": 0.05}])
def test_tokens_come_as_often_as_their_probability_says(filters: dict[str, float]) -> None:
    logits, sampling = gaussian(60, 1.5, 8), Sampling(temperature=0.9, seed=5, **filters)  # type: ignore[arg-type]
    shares = (logits.double() / 0.9).softmax(0)
    order = shares.argsort(descending=True)
    if sampling.top_k:
        shares[order[sampling.top_k :]] = 0
    shares[order[(shares[order].cumsum(0) - shares[order] >= sampling.top_p).nonzero()[:, 0]]] = 0
    shares[shares < sampling.min_p * shares.max()] = 0
    expected = shares / shares.sum() * DRAWS
    found = draws(logits, sampling)
    observed = torch.tensor([found.get(token, 0) for token in range(60)], dtype=torch.float64)
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    chi_square = float(((observed - expected)[kept] ** 2 / expected[kept]).sum())
    freedom = int(kept.sum()) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_the_same_seed_and_step_give_the_same_token_and_others_do_not() -> None:
    logits = torch.zeros(1000)

    def sample(seed: int) -> list[int | None]:
        rows = [row(Sampling(temperature=1, seed=seed), 1000, step=step) for step in range(50)]
        return [choice.token for choice in Sampler().choose(logits.expand(50, -1), rows)]

    assert sample(7) == sample(7)
    assert sample(7) != sample(8)
    assert len(set(sample(7))) > 40


def test_a_row_that_goes_on_from_another_engine_draws_the_next_number() -> None:
    logits, sampling = torch.zeros(1000), Sampling(temperature=1, seed=4)
    going = row(sampling, 1000)
    for token in (5, 6, 7):
        going.take(token)
    resumed = row(sampling, 1000, resumed=(5, 6, 7))
    first, second = Sampler().choose(logits.expand(2, -1), [going, resumed])
    assert first == second == Choice(token=int(uniform(4, 3) * 1000))


def test_the_numbers_of_a_seed_are_even_and_never_change() -> None:
    assert (uniform(5, 0), uniform(5, 1)) == (0.4269002939567903, 0.49987091417273855)
    numbers = [uniform(5, step) for step in range(2000)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)


BROKEN = Choice(token=None, error="The model's logits are not finite.", broken=True)
KINDS = [
    Sampling(temperature=0),
    Sampling(temperature=1),
    Sampling(temperature=1, top_k=50, top_logprobs=5),
    Sampling(temperature=1, top_k=2000),
    Sampling(temperature=1, top_p=0.9),
    Sampling(temperature=1, top_p=0.9, frequency_penalty=1.0, logit_bias=((1, -100.0),), top_logprobs=0),
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_is_not_finite_has_an_error_and_its_neighbours_do_not(
    sampling: Sampling, value: float, dtype: torch.dtype
) -> None:
    good = gaussian(4000, 2, 6).to(dtype)
    bad = good.clone()
    bad[: 4000 if value == -math.inf else 1] = value
    rows = [row(replace(sampling, seed=n), 4000, resumed=(3,)) for n in range(3)]
    first, second, third = Sampler().choose(torch.stack([good, bad, good]), rows)
    assert second == BROKEN
    assert [first, third] == [Sampler().choose(good[None], [rows[n]])[0] for n in (0, 2)]
    assert first.error is None
    assert third.error is None


@pytest.mark.parametrize("sampling", KINDS)
def test_where_nothing_is_allowed_that_row_has_an_error(sampling: Sampling) -> None:
    rows = [row(sampling, 4000), row(sampling, 4000)]
    rows[0].grammar = Allowed([], 4000)
    barred, free = Sampler().choose(gaussian(4000, 2, 6).expand(2, -1), rows)
    assert barred == Choice(token=None, error="No token is allowed here.")
    assert free.token is not None


def test_no_rows_are_no_choices() -> None:
    assert Sampler().choose(torch.zeros(0, 10), []) == []
