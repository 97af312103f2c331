"""What a text holds that its writer may not want to publish: keys, e-mail addresses, phone numbers, payment cards.

It points out and masks; it promises nothing: what it does not know it does not find. Phone numbers are known by
libphonenumber, cards by their check digit, keys by the forms that their makers document. (Libraries that know more of
those have patterns that take quadratic time on a hostile text.)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from phonenumbers import Leniency, PhoneNumberMatcher


class Kind(StrEnum):
    KEY = "key"
    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a text, `start` to `end` in characters."""

    kind: Kind
    start: int
    end: int


LABELS = {
    Kind.KEY: "[key removed]",
    Kind.EMAIL: "[e-mail address removed]",
    Kind.PHONE: "[phone number removed]",
    Kind.CARD: "[card number removed]",
}
# Numbers written without a country code are read as this region's.
REGION = "US"

# Each pattern begins where a word begins and repeats one class of characters, so that none takes more than linear time.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-])")
_KEYS = (
    re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL),
    # OpenAI, Anthropic, Stripe, Groq, xAI, Hugging Face, ours.
    re.compile(r"(?<![\w-])(?:sk|pk|rk|gsk|xai|hf|lc)[-_][\w-]{20,300}"),
    re.compile(r"(?<![\w-])(?:gh[oprsu]_|github_pat_|glpat-|npm_|dop_v1_|shpat_)\w{20,300}"),
    re.compile(r"(?<![\w-])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?!\w)"),
    re.compile(r"(?<![\w-])AIza[\w-]{35}"),
    re.compile(r"(?<![\w-])xox[abeoprs]-[\w-]{10,300}"),
    re.compile(r"(?<![\w-])SG\.[\w-]{22}\.[\w-]{43}"),
    re.compile(r"(?<![\w-])pypi-[\w-]{50,300}"),
    re.compile(r"(?<![\w-])\d{8,10}:[\w-]{35}(?![\w-])"),
    # JSON Web Tokens, and whatever a request carries as one.
    re.compile(r"(?<![\w-])eyJ[\w-]{8,4000}\.[\w-]{8,4000}(?:\.[\w-]{1,2000})?"),
    re.compile(r"(?<=[Bb]earer )[\w.~+/=-]{20,2000}"),
)
_DIGITS_OF_A_PHONE = re.compile(r"\d(?:[^\n\w]{0,4}\d){6}")


def find(text: str) -> list[Finding]:
    """In their order, none overlapping another: what begins first is kept, of two that begin together the longer."""
    every = sorted(_every(text), key=lambda finding: (finding.start, -finding.end))
    kept: list[Finding] = []
    for finding in every:
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
    return kept


def mask(text: str, kinds: Collection[Kind]) -> str:
    """The text with a label in place of each finding of these kinds."""
    parts: list[str] = []
    at = 0
    for finding in find(text):
        if finding.kind in kinds:
            parts += [text[at : finding.start], LABELS[finding.kind]]
            at = finding.end
    return "".join([*parts, text[at:]])


def _every(text: str) -> Iterator[Finding]:
    for pattern in _KEYS:
        yield from (Finding(Kind.KEY, *match.span()) for match in pattern.finditer(text))
    if "@" in text:
        yield from (Finding(Kind.EMAIL, *match.span()) for match in _EMAIL.finditer(text))
    for match in _CARD.finditer(text):
        if _has_check_digit(match[0]):
            yield Finding(Kind.CARD, *match.span())
    # libphonenumber takes milliseconds a page; most lines have no seven digits to look at.
    for line in re.finditer(r"[^\n]+", text):
        if _DIGITS_OF_A_PHONE.search(line[0]):
            for found in PhoneNumberMatcher(line[0], REGION, leniency=Leniency.VALID):
                yield Finding(Kind.PHONE, line.start() + found.start, line.start() + found.end)


def _has_check_digit(number: str) -> bool:
    """Luhn's check, ISO/IEC 7812-1. No card begins with 0."""
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return digits[0] != 0 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
