"""A typed view of the process environment.

Each reader names one variable, its type and its default, and refuses a value that it does not understand with one
sentence that names the variable. `Environment.declared` remembers every name that was read, which is how a test holds
`.env.example` complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


class Environment:
    """Reads variables from a mapping; every method raises ImproperlyConfigured for a value it cannot accept."""

    def __init__(self, values: Mapping[str, str | None]) -> None:
        self._values = values
        self.declared: set[str] = set()

    def text(self, name: str, default: str = "") -> str:
        self.declared.add(name)
        return (self._values.get(name) or "").strip() or default

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.text(name, "on" if default else "off").lower()
        if value not in TRUE | FALSE:
            raise ImproperlyConfigured(f"{name} is {value!r}; it takes on or off.")
        return value in TRUE

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        value = self.text(name, str(default))
        try:
            number = int(value)
        except ValueError:
            raise ImproperlyConfigured(f"{name} is {value!r}; it takes a whole number.") from None
        if not least <= number <= most:
            raise ImproperlyConfigured(f"{name} is {number}; it takes a number from {least} to {most}.")
        return number

    def choice(self, name: str, default: str, options: Iterable[str]) -> str:
        value, options = self.text(name, default), tuple(options)
        if value not in options:
            raise ImproperlyConfigured(f"{name} is {value!r}; it takes one of {', '.join(options)}.")
        return value

    def words(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list separated by commas."""
        value = self.text(name)
        return tuple(word.strip() for word in value.split(",") if word.strip()) or default

    def path(self, name: str, default: Path) -> Path:
        return Path(self.text(name, str(default))).expanduser().resolve()

    def url(self, name: str, schemes: Iterable[str]) -> str:
        """A URL with one of the schemes, or an empty string where the variable is not set."""
        value, schemes = self.text(name), tuple(schemes)
        if value and urlsplit(value).scheme not in schemes:
            # The value is not repeated: it may hold a password.
            raise ImproperlyConfigured(
                f"{name} must be a URL that begins with {' or '.join(s + '://' for s in schemes)}."
            )
        return value

    def secret(self, name: str) -> str:
        """A key that goes into an HTTP header; an empty string where the variable is not set."""
        value = self.text(name)
        if not all("!" <= character <= "~" for character in value):
            raise ImproperlyConfigured(
                f"{name} holds characters that no key has: spaces, line ends or letters beyond ASCII."
            )
        return value

    def origins(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Full web origins, such as https://chat.example.org, separated by commas."""
        values = self.words(name, default)
        for value in values:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query:
                raise ImproperlyConfigured(f"{name} has {value!r}; an origin looks like https://chat.example.org.")
        return values
