"""What is pointed out before sharing, and what is not."""

from __future__ import annotations

import time

import pytest

from chat.findings import Kind, find, mask

KEYS = [
    "sk-proj-abcdefghijklmnopqrstuvwx1",
    "lc_abcdefghijklmnopqrstuvwxyz",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEF",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAAA\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        *((Kind.KEY, key) for key in KEYS),
        (Kind.EMAIL, "ann.lee+x@mail.example.org"),
        (Kind.EMAIL, "jürgen@exämple.de"),
        (Kind.PHONE, "+49 30 901820"),
        (Kind.PHONE, "(212) 736-5000"),
        (Kind.CARD, "4111 1111 1111 1111"),
        (Kind.CARD, "378282246310005"),
    ],
)
def test_it_is_found_and_masked_whole(kind: Kind, written: str) -> None:
    text = f"Here it is: {written}, keep it.\n"
    found = find(text)
    assert [(finding.kind, text[finding.start : finding.end]) for finding in found] == [(kind, written)]
    assert written not in mask(text, [kind])
    assert mask(text, [kind]).startswith("Here it is: [")
    assert mask(text, [other for other in Kind if other is not kind]) == text


@pytest.mark.parametrize(
    "text",
    [
        "3.14159265358979323846",
        "2026-11-24 10:00:00",
        "4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "a@b",
        "@app.route and user@",
        "desk-lamp-of-a-very-long-name-indeed",
        "9007199254740993",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find(text) == []


@pytest.mark.parametrize(
    "unit", ["a@", "1 ", "sk-", "a.", "eyJ", "xoxb-", "Bearer ", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "+1 "]
)
def test_a_hostile_text_takes_no_more_than_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        began = time.thread_time()
        find(text)
        return time.thread_time() - began

    # Sixteen times the text: quadratic time would be 256 times as long.
    assert seconds(320_000) < 64 * max(seconds(20_000), 0.002)
