"""A model in this process: prompts, and the engine that answers them, as `inference.served` wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inference.engine import prompts
from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.served import Begun, ContextTooLong, Load, OnEvents, Resumed
from inference.types import Priority, Sampling, Turn


class LocalModel:
    """A loaded model and its engine."""

    def __init__(self, loaded: LoadedModel, engine: Engine) -> None:
        self._loaded = loaded
        self._engine = engine

    @property
    def revision(self) -> str:
        return self._loaded.revision

    @property
    def device(self) -> str:
        return str(self._loaded.device)

    @property
    def dtype(self) -> str:
        return str(self._loaded.dtype).removeprefix("torch.")

    @property
    def context_length(self) -> int:
        return self._loaded.context_length

    @property
    def ready(self) -> bool:
        return self._engine.alive

    @property
    def alive(self) -> bool:
        return self._engine.alive

    def begin(
        self, turns: Sequence[Turn], sampling: Sampling, *, priority: Priority, owner: str, resumed: Resumed
    ) -> Begun:
        try:
            prompt = prompts.build(self._loaded, turns, sampling.max_tokens)
        except prompts.PromptTooLong as error:
            raise ContextTooLong(str(error)) from error
        handle = self._engine.submit(
            prompt.ids,
            replace(sampling, max_tokens=prompt.max_tokens),
            priority=priority,
            owner=owner,
            resume_ids=resumed.token_ids,
        )
        return Begun(handle, len(prompt.ids), prompt.dropped_turns)

    def load(self) -> Load:
        stats = self._engine.stats()
        return Load(stats.running, stats.waiting, stats.tokens_per_s, stats.tokens_total, stats.kv_share)

    def start(self, on_events: OnEvents) -> None:
        self._engine.listen(on_events)
        self._engine.start()

    def close(self) -> None:
        self._engine.close()
