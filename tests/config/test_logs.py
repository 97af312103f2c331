"""Logs hold ids, counts and timings, and nothing that people wrote."""

from __future__ import annotations

import json
import logging
import sys

from config.logs import FIELDS, JSONFormatter, LineFormatter, UnhandledOnly


def _record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord("web", logging.INFO, __file__, 1, "request", (), None)
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def test_fields_of_the_list_are_written_and_all_others_are_dropped() -> None:
    record = _record(generation="g1", status=200, content="a secret", cookie="sessionid=1")
    line = json.loads(JSONFormatter().format(record))
    assert (line["generation"], line["status"]) == ("g1", 200)
    assert "secret" not in LineFormatter().format(record) + json.dumps(line)
    assert not {"content", "cookie"} & set(line)


def test_an_exceptions_own_words_are_left_out_and_its_frames_are_not() -> None:
    said = " ".join(["what", "the", "person", "wrote"])  # not in the source line that a traceback repeats
    try:
        raise ValueError(said)
    except ValueError:
        record = _record()
        record.exc_info = sys.exc_info()
    for text in (JSONFormatter().format(record), LineFormatter().format(record)):
        assert said not in text
        assert "ValueError" in text
        assert "test_logs.py" in text
    assert said in LineFormatter(tell_errors=True).format(record)


def test_djangos_lines_about_addresses_are_kept_only_with_a_traceback() -> None:
    assert not UnhandledOnly().filter(_record())


def test_no_field_of_the_list_names_content() -> None:
    assert not {"content", "text", "prompt", "key", "cookie", "query", "address", "path"} & set(FIELDS)
