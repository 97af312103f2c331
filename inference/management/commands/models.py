"""manage.py models list | pull [SLUG] | check: what is declared, fetch it, see that it can be loaded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from time import monotonic
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper

from inference import catalog, weights
from inference.catalog import ModelSpec, OpenAISource
from inference.elsewhere.faults import Fault, Refused
from inference.elsewhere.upstream import look
from inference.engine import revision

BAR_WIDTH = 30
LINE_EVERY_S = 5.0


class Command(BaseCommand):
    """Every answer is one line per model; errors are one sentence and exit with status 1."""

    help = "List the declared models, fetch one, or check that what is declared can be run."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """One subcommand each; `pull` without a slug fetches the default model."""
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="every declared model and whether its weights are here")
        pull = actions.add_parser("pull", help="fetch a model's weights; does nothing where they are here")
        pull.add_argument("slug", nargs="?", help="the default model if left out")
        actions.add_parser(
            "check", help="read the catalog and each fetched model's files, ask engines elsewhere; status 1 on a fault"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand; domain errors become one sentence."""
        try:
            declared = catalog.load(settings.MODELS_FILE)
            if options["action"] == "list":
                self._list(declared)
            elif options["action"] == "pull":
                self._pull(declared.get(options["slug"]) if options["slug"] else declared.default)
            else:
                self._check(declared)
        except (catalog.CatalogError, catalog.UnknownModel, weights.WeightsError) as error:
            raise CommandError(str(error)) from error

    def _list(self, declared: catalog.Catalog) -> None:
        width = max(len(spec.slug) for spec in declared)
        for spec in declared:
            state = "ready" if weights.is_ready(spec, settings.MODELS_DIR) else "not fetched"
            if isinstance(spec.source, OpenAISource):
                state = "elsewhere"
            default = ", default" if spec.default else ""
            self.stdout.write(f"{spec.slug:{width}}  {state:11}  {spec.name}, {spec.licence}{default}")

    def _pull(self, spec: ModelSpec) -> None:
        bar = ProgressBar(self.stdout, spec.slug)
        folder = weights.pull(spec, settings.MODELS_DIR, bar.show)
        bar.end()
        self.stdout.write(f"{spec.slug} is ready, revision {revision.read(folder)}.")

    def _check(self, declared: catalog.Catalog) -> None:
        faults = 0
        for spec in declared:
            fault, sentence = self._state(spec)
            faults += fault
            self.stdout.write(f"{spec.slug}: {sentence}")
        if faults:
            raise CommandError(f"{faults} of {len(declared)} models cannot be run as declared.")

    def _state(self, spec: ModelSpec) -> tuple[bool, str]:
        """Whether it is a fault, and a sentence. A model that was not fetched, or whose engine elsewhere is away, is
        none, unless it is the default."""
        if isinstance(spec.source, OpenAISource):
            return _state_elsewhere(spec, spec.source)
        folder = weights.directory(spec, settings.MODELS_DIR)
        if not weights.is_ready(spec, settings.MODELS_DIR):
            return spec.default, f"not fetched; `manage.py models pull {spec.slug}` does that."
        positions = _positions(json.loads((folder / "config.json").read_text()))
        if positions and spec.context_length > positions:
            return True, f"declared with a context of {spec.context_length} tokens, but it has only {positions}."
        return self._packing(folder, f"ready, revision {revision.read(folder)}")

    def _packing(self, folder: Path, ready: str) -> tuple[bool, str]:
        """The same for a model that is here: whether its requests can share a forward pass."""
        from inference.engine.placing import LoadError
        from inference.engine.probing import obstacle

        try:
            reason = obstacle(folder)
        except LoadError as error:
            return True, str(error)
        return False, f"{ready}; its requests are read one by one: {reason}." if reason else f"{ready}."


def _state_elsewhere(spec: ModelSpec, source: OpenAISource) -> tuple[bool, str]:
    where = f"the engine elsewhere at {source.url}"
    try:
        listed = asyncio.run(look(source, api_key=settings.ELSEWHERE_API_KEY))
    except Refused as fault:
        return True, f"{where} answers, but not as it should: {fault}"
    except Fault as fault:
        return spec.default, f"{where} is not reachable now: {fault}"
    if listed.context_length is not None and listed.context_length < spec.context_length:
        told = f"but {where} has only {listed.context_length}"
        return True, f"declared with a context of {spec.context_length} tokens, {told}."
    return False, f"reachable, {where} answers with {listed.name}."


class ProgressBar:
    """Phases and bytes on a terminal as a bar that redraws itself, elsewhere as a plain line now and then."""

    def __init__(self, out: OutputWrapper, name: str) -> None:
        self._out = out
        self._name = name
        self._redraws = out.isatty()
        self._phase = ""
        self._shown_at = 0.0

    def show(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        """The callback for weights.pull."""
        begins, ends = phase != self._phase, total_bytes > 0 and done_bytes >= total_bytes
        wait_s = 0.1 if self._redraws else LINE_EVERY_S
        if not begins and not ends and monotonic() - self._shown_at < wait_s:
            return
        if begins and self._phase:
            self._break_line()
        self._phase, self._shown_at = phase, monotonic()
        self._write(self._line(done_bytes, total_bytes))

    def end(self) -> None:
        """Leave the last line as it is."""
        if self._phase:
            self._break_line()

    def _line(self, done_bytes: int, total_bytes: int) -> str:
        if not total_bytes:
            return f"{self._name}: {self._phase} …"
        share = min(done_bytes / total_bytes, 1.0)
        amount = f"{done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"
        if not self._redraws:
            return f"{self._name}: {self._phase} {amount} ({share:.0%})"
        filled = round(share * BAR_WIDTH)
        return f"{self._name}: {self._phase} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {amount}"

    def _write(self, line: str) -> None:
        self._out.write(f"\r\x1b[K{line}" if self._redraws else line, ending="" if self._redraws else "\n")
        self._out.flush()

    def _break_line(self) -> None:
        if self._redraws:
            self._out.write()


def _positions(config: dict[str, Any]) -> int:
    """The context length in a config.json, one level lower in multimodal models; 0 where it is absent."""
    return int(config.get("text_config", config).get("max_position_embeddings", 0))
