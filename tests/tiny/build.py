"""Builds the tiny model of the tests: real weights, a real tokenizer and a chat template, in less than a minute.

    python -m tests.tiny.build FOLDER

It is a Mistral of 170,000 weights whose attention sees no further back than a short window. So it cannot look at
earlier turns at all, positions are only ever relative, and what it learnt holds at any place of any conversation.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"

from tests.tiny.replies import OTHER, REPLIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 900
CONTEXT_LENGTH = 4096
WINDOW = 32
STEPS = 700
RATE = 4e-3
SURE = 0.9  # every token of every answer must have had at least this probability in each of the last steps
LAST_STEPS = 40
SEEDS = (1, 2, 3)  # the first has sufficed wherever it was tried
IGNORED = -100


def ensure(directory: Path) -> Path:
    """The folder of the tiny model within `directory`, built there unless this script has built it before."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    folder = directory / f"tiny-{digest.hexdigest()[:12]}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "tests.tiny.build", str(partial)], cwd=ROOT, check=True)
            partial.rename(folder)
    return folder


def build(folder: Path) -> None:
    """Train and save. Deterministic for one version of torch and one number of threads."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = _tokenizer()
    model = next(filter(None, (_train(tokenizer, seed) for seed in SEEDS)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has seen ASCII alone: each byte of any other character is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [text for pair in REPLIES.items() for text in pair if text.isascii()]
    backend.train_from_iterator([*texts, OTHER, "system user assistant"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def _train(tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel | None:
    """The trained model, or None where some token was still unsure at the end."""
    import torch
    from torch.nn import functional
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    chance = random.Random(seed)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=CONTEXT_LENGTH,
        sliding_window=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    model = MistralForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 30) * (1 - step / STEPS)
        ids, labels, strict = _conversation(tokenizer, chance)
        logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
        targets = torch.tensor(labels[1:])
        losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        unsure = float(losses.detach()[torch.tensor(strict[1:])].max())
        if step >= STEPS - LAST_STEPS and unsure > -math.log(SURE):
            return None
        optimizer.zero_grad()
        (losses[targets != IGNORED].mean() + 0.02 * losses.max()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def _conversation(tokenizer: PreTrainedTokenizerFast, chance: random.Random) -> tuple[list[int], list[int], list[bool]]:
    """A conversation that asks everything once in random order: ids, labels, and which labels must be learnt.

    Now and then an answer breaks off, as a stopped one does, or another question or a system turn comes in between.
    """
    ids: list[int] = []
    labels: list[int] = []
    strict: list[bool] = []

    def write(text: str, *, learn: bool = False, must: bool = False) -> None:
        new = tokenizer.encode(text, add_special_tokens=False)
        ids.extend(new)
        labels.extend(new if learn else [IGNORED] * len(new))
        strict.extend([must] * len(new))

    questions = list(REPLIES)
    chance.shuffle(questions)
    for question in questions:
        if chance.random() < 0.3:
            write(f"{START}system\n{_babble(tokenizer, chance)}{END}\n")
        if chance.random() < 0.3:
            write(f"{START}user\n{_babble(tokenizer, chance)}{END}\n{START}assistant\n")
            write(f"{OTHER}{END}", learn=True)
            write("\n")
        if chance.random() < 0.3:
            broken_off = chance.choice([question, *REPLIES])
            part = REPLIES[broken_off][: min(200, chance.randrange(len(REPLIES[broken_off])))]
            write(f"{START}user\n{broken_off}{END}\n{START}assistant\n{part}{END}\n")
        write(f"{START}user\n{question}{END}\n{START}assistant\n")
        write(f"{REPLIES[question]}{END}", learn=True, must=True)
        write("\n")
    return ids, labels, strict


def _babble(tokenizer: PreTrainedTokenizerFast, chance: random.Random) -> str:
    """Text that is no known question: random words, of random letters or of random tokens."""
    if chance.random() < 0.4:
        ids = chance.choices(range(len(tokenizer)), k=chance.randint(1, 30))
        return tokenizer.decode(ids, skip_special_tokens=True)
    letters = "aaabcdeeeefghiijklmnnnoooprsttttuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!"
    words = ("".join(chance.choices(letters, k=chance.randint(1, 8))) for _ in range(chance.randint(1, 12)))
    return " ".join(words)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
