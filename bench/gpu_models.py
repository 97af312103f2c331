"""Random weights in the shapes of real models, so that a GPU can be measured without a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from inference.engine.loading import LoadedModel

COMMON: dict[str, Any] = {
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "pad_token_id": 0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-8b": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
}
# The same kinds of layers, small enough for a test.
TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}
TINY_EXPERTS = {"moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Weights:
    """What a pass reads and multiplies. dense: the numbers of all but experts and embedding; head: those among them of
    the output head; experts: those of all experts; chosen: the share of them that one token is sent to."""

    dense: int
    head: int
    experts: int
    chosen: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> Weights:
        config = model.config
        sizes = {name: weight.numel() for name, weight in model.named_parameters() if "embed_tokens" not in name}
        experts = sum(size for name, size in sizes.items() if ".experts." in name)
        chosen = config.num_experts_per_tok / config.num_experts if experts else 0.0
        head = sum(size for name, size in sizes.items() if name.startswith("lm_head"))
        return cls(sum(sizes.values()) - experts, head, experts, chosen)

    def read(self, tokens: int) -> float:
        """How many numbers a pass over so many tokens reads, if each goes to experts by chance."""
        return self.dense + self.experts * (1 - (1 - self.chosen) ** tokens)

    @property
    def multiplied(self) -> float:
        """How many numbers each token of a prompt is multiplied with; the head gets the last one alone."""
        return self.dense - self.head + self.experts * self.chosen


def random_model(name: str, device: torch.device, *, tiny: bool) -> PreTrainedModel:
    """In bfloat16, with transformers' own modules. The 30B takes 61 GB."""
    fields = {**COMMON, **SHAPES[name]}
    if tiny:
        fields |= TINY | (TINY_EXPERTS if "num_experts" in fields else {})
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def loaded(model: PreTrainedModel, device: torch.device) -> LoadedModel:
    """As the engine wants it; no token ends an answer."""
    config = model.config
    return LoadedModel(
        model=model,
        tokenizer=_tokenizer(config.vocab_size),
        context_length=config.max_position_embeddings,
        eos_ids=frozenset(),
        device=device,
        dtype=torch.bfloat16,
        revision="random",
        template_hash="",
        longest_token=8,
    )


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One word a token: what an answer says does not matter, but that it is put together does."""
    words = models.WordLevel({f"{number:x} ": number for number in range(vocabulary)}, unk_token="0 ")
    tokenizer = Tokenizer(words)
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
