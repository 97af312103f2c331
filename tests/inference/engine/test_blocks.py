"""The paged cache's blocks, with any order of what may happen to them. Each key holds the id of its token, so that a
block written while another reads it, or found by somebody whom it does not concern, shows as a wrong id."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference.engine.blocks import BlockPool
from inference.engine.paged import SCRATCH_BLOCK, PagedCache
from inference.engine.prefixes import root
from inference.engine.slots import LayerShape

CPU = torch.device("cpu")
SIZE = 4
BLOCKS = 9
SLOTS = 4
LENGTH = 22


@dataclass(eq=False)
class Request:
    owner: str
    ids: list[int]
    cached: int = 0
    done: int = 0
    room: int = 0
    spoilt: bool = False
    read: list[int] = field(default_factory=list)


def cache(**options: int) -> PagedCache:
    shape = LayerShape(1, 1, 1, CPU, 1)
    sizes = {"slots": SLOTS, "length": LENGTH, "budget_tokens": BLOCKS * SIZE, "block_tokens": SIZE, **options}
    return PagedCache([shape], dtype=torch.float32, **sizes)


def places(paged: PagedCache, request: Request, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks and places within them, by the block table, as a pass computes them."""
    positions = torch.arange(start, end)
    table = paged.tables()[CPU][paged.slot_of(request)]
    return table[positions // SIZE].long(), positions % SIZE


def write(paged: PagedCache, request: Request, end: int) -> None:
    """Read the tokens up to `end`: their keys and values are their ids."""
    keys, values = paged.layer(0)
    where = places(paged, request, request.done, end)
    assert SCRATCH_BLOCK not in where[0]
    ids = torch.tensor(request.ids[request.done : end], dtype=torch.float32)[:, None, None]
    keys[where] = ids if not request.spoilt else torch.nan
    values[where] = -ids if not request.spoilt else torch.nan
    paged.commit(request, end)
    request.done = end


def held(paged: PagedCache, request: Request) -> list[int]:
    keys, values = paged.layer(0)
    where = places(paged, request, 0, request.done)
    assert torch.equal(keys[where], -values[where])
    return [int(key) for key in keys[where].flatten()]


def admit(paged: PagedCache, owner: str, ids: list[int]) -> Request | None:
    request = Request(owner, ids)
    cached = paged.admit(request)
    if cached is None:
        return None
    request.cached = request.done = cached
    if not paged.grow(request, len(ids)):
        paged.release(request)
        return None
    return request


class Requests(RuleBasedStateMachine):
    """Prompts over three tokens begin alike often."""

    def __init__(self) -> None:
        super().__init__()
        self.paged = cache()
        self.running: list[Request] = []
        self.said: list[Request] = []

    @rule(
        owner=st.sampled_from("ab"),
        ids=st.lists(st.integers(1, 3), min_size=1, max_size=LENGTH - 1),
        again=st.booleans(),
    )
    def arrive(self, owner: str, ids: list[int], again: bool) -> None:
        """Somebody asks; often as before, with something new behind it."""
        before = [request.ids for request in self.said if request.owner == owner]
        if again and before:
            ids = (before[-1] + ids)[: LENGTH - 1]
        request = admit(self.paged, owner, list(ids))
        if len(self.running) == SLOTS:
            assert request is None
        if request is not None:
            assert request.cached < len(request.ids)
            self.running.append(request)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, SLOTS - 1), count=st.integers(1, 2 * SIZE))
    def read(self, which: int, count: int) -> None:
        request = self.running[which % len(self.running)]
        if request.done < len(request.ids):
            write(self.paged, request, min(len(request.ids), request.done + count))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, SLOTS - 1), token=st.integers(1, 3))
    def say(self, which: int, token: int) -> None:
        """One token more, where all before is read and there is room."""
        request = self.running[which % len(self.running)]
        if request.done < len(request.ids) or not self.paged.grow(request, len(request.ids) + 1):
            return
        request.ids.append(token)
        write(self.paged, request, len(request.ids))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, SLOTS - 1))
    def end(self, which: int) -> None:
        request = self.running.pop(which % len(self.running))
        self.paged.release(request)
        self.said.append(request)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, SLOTS - 1))
    def break_down(self, which: int) -> None:
        """What it reads from now on is not a number; it is found out, and ended."""
        request = self.running.pop(which % len(self.running))
        if request.done < len(request.ids):
            request.spoilt = True
            write(self.paged, request, len(request.ids))
        self.paged.spoil(request)
        self.paged.release(request)

    @invariant()
    def everybody_reads_what_is_theirs(self) -> None:
        for request in self.running:
            assert held(self.paged, request) == request.ids[: request.done]

    @invariant()
    def owners_never_share_and_no_block_is_lost(self) -> None:
        owners: dict[int, str] = {}
        for request in self.running:
            blocks = self.paged.blocks_of(request)
            assert len(set(blocks)) == len(blocks)
            for block in blocks:
                assert owners.setdefault(block.number, request.owner) == request.owner
        used = {block for request in self.running for block in self.paged.blocks_of(request)}
        assert self.paged.held_tokens == SIZE * len(used)
        for block in used:
            assert block.users == sum(block in self.paged.blocks_of(request) for request in self.running)

    @invariant()
    def nothing_that_is_not_finite_lies_where_nobody_looks(self) -> None:
        assert all(pool.isfinite().all() for pool in self.paged.layer(0))

    def teardown(self) -> None:
        for request in self.running:
            self.paged.release(request)
        assert self.paged.held_tokens == 0
        whole = admit(self.paged, "c", [1] * (LENGTH - 1))
        assert whole is not None
        assert whole.cached == 0


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_full_blocks_are_shared_while_both_run_and_the_rest_is_copied() -> None:
    paged = cache()
    first = admit(paged, "a", [1, 2, 3, 1, 2, 3, 1, 2, 3, 1])
    assert first is not None
    write(paged, first, 10)
    second = admit(paged, "a", [1, 2, 3, 1, 2, 3, 1, 2, 3, 2])
    assert second is not None
    assert second.cached == 9
    assert paged.blocks_of(first)[:2] == paged.blocks_of(second)[:2]
    assert paged.blocks_of(first)[2] is not paged.blocks_of(second)[2]


def test_the_last_token_is_read_again_and_never_into_a_shared_block() -> None:
    paged = cache()
    first = admit(paged, "a", [1, 2, 3, 1])
    assert first is not None
    write(paged, first, 4)
    second = admit(paged, "a", [1, 2, 3, 1])
    assert second is not None
    assert second.cached == 3
    assert paged.blocks_of(first) != paged.blocks_of(second)


def test_a_conversation_goes_on_in_the_block_that_it_began() -> None:
    paged = cache()
    first = admit(paged, "a", [1, 2, 3, 1, 2])
    assert first is not None
    write(paged, first, 5)
    blocks = paged.blocks_of(first)
    paged.release(first)
    second = admit(paged, "a", [1, 2, 3, 1, 2, 3, 3])
    assert second is not None
    assert second.cached == 5
    assert paged.blocks_of(second) == blocks


def test_the_end_of_a_conversation_is_forgotten_before_its_beginning() -> None:
    paged = cache(budget_tokens=4 * SIZE)
    first = admit(paged, "a", [1] * 13)
    assert first is not None
    write(paged, first, 13)
    paged.release(first)
    other = admit(paged, "b", [2] * 7)
    assert other is not None
    paged.release(other)
    again = admit(paged, "a", [1] * 13)
    assert again is not None
    assert again.cached == 8


def test_a_block_is_not_filled_for_two_users() -> None:
    pool = BlockPool(2, SIZE)
    block = pool.take()
    pool.fill(block, root("a"), [1, 2])
    pool.share(block)
    with pytest.raises(ValueError, match="shared"):
        pool.fill(block, root("a"), [3])
    pool.take()
    with pytest.raises(LookupError):
        pool.take()
