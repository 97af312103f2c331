from collections.abc import Iterator

import pytest

from tests.browser_client import Guest
from tests.stack import Stack


@pytest.fixture
def guest(stack: Stack) -> Iterator[Guest]:
    with Guest(stack.base) as visitor:
        yield visitor


@pytest.fixture
def stranger(stack: Stack) -> Iterator[Guest]:
    with Guest(stack.base) as visitor:
        yield visitor
