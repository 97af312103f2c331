"""manage.py workers: a table for people, JSON for scripts."""

from __future__ import annotations

import json
import uuid
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from inference import workers
from inference.availability import listing
from inference.workers import Announcement, Loading
from tests.stack import ABSENT, TINY, Stack


def _said(*arguments: str) -> str:
    out = StringIO()
    call_command("workers", *arguments, stdout=out)
    return out.getvalue()


def _announcement(**fields: object) -> Announcement:
    values = {
        "worker": f"by-hand-{uuid.uuid4().hex[:6]}",
        "model": ABSENT,
        "revision": "0123456789abcdef",
        "device": "cuda:0",
        "dtype": "bfloat16",
        "context_length": 2048,
        "slots": 32,
        "running": 3,
        "waiting": 1,
        "tokens_per_s": 12.34,
        "kv_share": 0.25,
        "memory_bytes": 2_000_000_000,
    }
    return Announcement(**{**values, **fields})  # type: ignore[arg-type]


def test_each_worker_is_a_line_with_its_load(stack: Stack) -> None:
    stack.worker(TINY)
    announced = _announcement()
    workers.announce(announced)
    headings, *lines = _said().splitlines()
    assert headings.split() == [
        "MODEL", "WORKER", "DEVICE", "DTYPE", "REVISION", "RUNNING", "WAITING", "TOKENS/S", "KV", "MEMORY"
    ]  # fmt: skip
    line = next(line for line in lines if announced.worker in line)
    assert line.split()[2:] == [
        "cuda:0", "bfloat16", "0123456789ab", "3/32", "1", "12.3", "25%", "2,000", "MB"
    ]  # fmt: skip
    assert any(stack.name_of(stack.processes[TINY]) in line and " cpu " in line for line in lines)
    workers.retire(announced.worker)


def test_the_log_tells_how_far_a_model_has_come_and_where_it_went(stack: Stack) -> None:
    stack.worker(TINY)
    lines = [line for line in stack.log_path(TINY).read_text().splitlines() if f"model={TINY}" in line]
    assert any("loading" in line and "share=1.0" in line for line in lines)
    assert any("model loaded" in line and "device=cpu" in line for line in lines)


def test_scripts_get_one_object_a_line(stack: Stack) -> None:
    stack.worker(TINY)
    rows = [json.loads(line) for line in _said("--json").splitlines()]
    name = stack.name_of(stack.processes[TINY])
    assert next(row for row in rows if row["worker"] == name)["model"] == TINY


def test_a_worker_that_loads_is_told_with_how_far_it_is_and_is_not_ready_yet(database: None) -> None:
    before = workers.living()
    workers.announce(Loading("on-its-way", ABSENT, 0.434))
    out = StringIO()
    if before:
        call_command("workers", stdout=out)
    else:
        with pytest.raises(CommandError, match="No worker answers"):
            call_command("workers", stdout=out)
    assert "loading 43%" in next(line for line in out.getvalue().splitlines() if "on-its-way" in line)
    listed = next(listed for listed in listing() if listed.spec.slug == ABSENT)
    assert (listed.ready, listed.loading) == (False, 0.434)
    workers.retire("on-its-way")
    assert next(listed for listed in listing() if listed.spec.slug == ABSENT).loading is None
