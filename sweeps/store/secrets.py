"""Keeps secrets out of whatever is said or recorded: passwords in addresses, and those that this process was given.

Standard output and error of a command pass through `Discreet`, and so does what the outbox records of free text.
"""

import base64
import io
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from urllib.parse import unquote, urlsplit

HIDDEN = "***"

# Variables whose value is a secret; not TOKENIZERS_PARALLELISM.
_SECRET_NAME = re.compile(r"(^|_)(PASSWORD|PASSWD|TOKEN|SECRET|API_?KEY|ACCESS_?KEY|SECRET_?KEY|CREDENTIALS?)$", re.I)
_LEAST_LENGTH = 6  # a shorter value may be any word
_USER_INFO = re.compile(r"://[^/\s]*@")


def without_secrets(text: str) -> str:
    """The text with no user and password before a URL's host, and with `***` for each secret that was given to us."""
    if "://" in text:
        text = _USER_INFO.sub("://", text)
    for secret in _given():
        text = text.replace(secret, HIDDEN)
    return text


class Discreet(io.TextIOWrapper):
    """A text stream that writes no secret."""

    def write(self, text: str, /) -> int:
        """Write all of it but for secrets; returns the length of the text, as any stream does."""
        super().write(without_secrets(text))
        return len(text)


def make_discreet(stream: io.TextIOWrapper) -> Discreet:
    """The same output, without secrets; the stream itself is of no use any more."""
    encoding, errors, buffered = stream.encoding, stream.errors, stream.line_buffering
    return Discreet(stream.detach(), encoding=encoding, errors=errors, line_buffering=buffered)


@cache
def _given() -> tuple[str, ...]:
    """What this process was given as a secret, by its variables and its command line; the longest first."""
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    for text in (*sys.argv, *os.environ.values()):
        found.update(_in_address(text))
    return tuple(sorted((one for one in found if len(one) >= _LEAST_LENGTH), key=len, reverse=True))


def _in_address(text: str) -> Iterator[str]:
    """The password of an address, as it stands there and as an HTTP header has it (RFC 7617)."""
    try:
        parts = urlsplit(text)
        password = parts.password
    except ValueError:
        return
    if parts.scheme and password:
        yield from (password, unquote(password))
        pair = f"{unquote(parts.username or '')}:{unquote(password)}"
        yield base64.b64encode(pair.encode()).decode()
