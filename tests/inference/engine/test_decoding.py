"""Passes of a fixed shape, as a GPU replays them: padding changes nothing, and nothing is asked of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from inference.engine import trial
from inference.engine.attention import Segment
from inference.engine.decoding import Decoder, Token, rungs
from inference.engine.kernels import Way
from inference.engine.paged import PagedCache
from inference.engine.paged_attention import PagedPass
from inference.engine.probing import read_packed, shapes_of
from inference.engine.slots import LayerShape
from tests.inference.engine.test_architectures import PACKED, random_model

CPU = torch.device("cpu")
SIZE = 8
LENGTHS = (3, 30, 9, 17, 8)
# Whatever waits for a number, or makes a tensor whose shape depends on numbers.
ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "bincount", "is_nonzero"}


class Asked:
    """A request of the cache."""

    def __init__(self, length: int) -> None:
        self.ids = [(7 * place + 5 * length) % 290 + 3 for place in range(length + 1)]
        self.owner = str(length)


class Watch(TorchDispatchMode):
    """Notes the name of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Stage:
    """A model, its cache, and requests whose prompts have been read."""

    def __init__(self, model: PreTrainedModel) -> None:
        shapes = shapes_of(model, device=CPU, dtype=torch.float32)
        self.model = model
        self.ways = trial.choose(shapes, block_tokens=SIZE, dtype=torch.float32)
        self.cache = PagedCache(shapes, slots=6, length=64, budget_tokens=400, dtype=torch.float32, block_tokens=SIZE)
        self.decoder = Decoder(model, self.cache, self.ways, slots=6)
        self.decoder.prepare()
        self.requests = [Asked(length) for length in LENGTHS]
        for request in self.requests:
            assert self.cache.admit(request) == 0
            assert self.cache.grow(request, len(request.ids))
            self._read([request], 0, len(request.ids) - 1)

    def tokens(self) -> list[Token]:
        return [Token(each.ids[-1], len(each.ids) - 1, self.cache.slot_of(each)) for each in self.requests]

    def unpadded(self) -> Tensor:
        """The same step as a pass of just its tokens."""
        return torch.cat([self._read([each], len(each.ids) - 1, len(each.ids)) for each in self.requests])

    def _read(self, requests: Sequence[Asked], start: int, end: int) -> Tensor:
        (request,) = requests
        slot, positions = self.cache.slot_of(request), torch.arange(start, end)
        single = end - start == 1
        layout = PagedPass(
            self.cache,
            self.ways,
            positions=positions,
            slots=torch.full_like(positions, slot),
            singles=int(single),
            blocks=start // SIZE + 1,
            chunks=[] if single else [Segment(slot, start, end - start)],
        )
        return read_packed(self.model, torch.tensor(request.ids[start:end]), layout, torch.tensor([end - start - 1]))


@pytest.fixture
def stage() -> Callable[[str], Stage]:
    return lambda kind: Stage(random_model(kind, **PACKED[kind]))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss", "qwen3_moe", "deepseek_v3"])
@torch.inference_mode()
def test_a_padded_step_gives_what_each_token_gives_alone(kind: str, stage: Callable[[str], Stage]) -> None:
    staged = stage(kind)
    wanted = staged.unpadded()
    torch.testing.assert_close(staged.decoder.read(staged.tokens()), wanted, rtol=1e-4, atol=1e-4)
    # The same buffers with other requests in them: nothing of the last step is left.
    few = staged.decoder.read(staged.tokens()[3:])
    torch.testing.assert_close(few, wanted[3:], rtol=1e-4, atol=1e-4)
    again = staged.decoder.read(staged.tokens()[::-1])
    torch.testing.assert_close(again, wanted.flip(0), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there, captures succeed")
@torch.inference_mode()
def test_where_a_capture_fails_the_same_passes_go_on_and_the_log_says_so(
    stage: Callable[[str], Stage], caplog: pytest.LogCaptureFixture
) -> None:
    staged = stage("llama")
    wanted = staged.unpadded()
    staged.decoder._captures = True
    for _ in range(2):
        torch.testing.assert_close(staged.decoder.read(staged.tokens()), wanted, rtol=1e-4, atol=1e-4)
    assert [record.message for record in caplog.records] == ["decoding goes on without CUDA graphs"]


@pytest.mark.parametrize("kind", [*PACKED])
@torch.inference_mode()
def test_a_step_asks_the_host_for_nothing(kind: str, stage: Callable[[str], Stage]) -> None:
    staged = stage(kind)
    staged.decoder.read(staged.tokens())
    with Watch() as watch:
        staged.decoder.read(staged.tokens())
    assert len(watch.seen) > 10
    assert not watch.seen & ASKING
    # One product for all experts, wherever there are any.
    assert ("_grouped_mm" in watch.seen) is any("experts" in name for name, _ in staged.model.named_modules())


@pytest.mark.parametrize("way", [Way.BY_BLOCK, Way.BY_TABLE])
@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe", "mistral", "gpt_oss", "gemma2"])
@torch.inference_mode()
def test_whole_passes_take_the_ways_of_a_gpu(kind: str, way: Way) -> None:
    """On the meta device, where nothing is computed: calls and shapes are checked, and whoever reads a number fails."""
    meta, half = torch.device("meta"), torch.bfloat16
    model = random_model(kind, **PACKED[kind]).to(half).to(meta)
    shapes = shapes_of_meta(model)
    cache = PagedCache(shapes, slots=6, length=64, budget_tokens=400, dtype=half, block_tokens=SIZE)
    decoder = Decoder(model, cache, [way] * len(shapes), slots=6)
    assert decoder.read([Token(5, 30, 0), Token(6, 3, 1), Token(7, 9, 4)]).shape == (3, 300)
    starts = [(0, 0), (0, 9)]  # prompts read from their beginning, and gone on with
    for first, second in starts:
        chunks = [Segment(2, first, 7), Segment(3, second, 4)]
        places = torch.empty(2 + 7 + 4, dtype=torch.int64, device=meta)
        layout = PagedPass(
            cache, [way] * len(shapes), positions=places, slots=places, singles=2, blocks=3, chunks=chunks
        )
        assert read_packed(model, places, layout, places[:4]).shape == (4, 300)


def shapes_of_meta(model: PreTrainedModel) -> list[LayerShape]:
    config = model.config
    width, heads = config.head_dim, config.num_attention_heads
    shape = LayerShape(config.num_key_value_heads, width, width, torch.device("meta"), heads)
    return [shape] * int(config.num_hidden_layers)


@pytest.mark.parametrize(
    ("slots", "wanted"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (33, [1, 2, 4, 8, 16, 32, 33])]
)
def test_the_ladder_of_batch_sizes_ends_with_all_slots(slots: int, wanted: list[int]) -> None:
    assert rungs(slots) == wanted
