"""The request header Prefer (RFC 7240): `Prefer: wait=10, respond-async`. Of all preferences, `wait`."""

import re
from collections.abc import Iterable

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# A comma within quotes parts nothing. A quote that nothing closes reaches to the end: looking for its end
# again and again would take time in the square of a header's length.
_PREFERENCES = re.compile(r'(?:"(?:[^"\\]|\\.?)*(?:"|$)|[^,"])+', re.DOTALL)
# What follows the first semicolon are parameters; `wait` has none.
_PREFERENCE = re.compile(rf"[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*({_TOKEN}|{_QUOTED}))?[ \t]*(?:;|$)")


def wait(headers: Iterable[bytes]) -> int | None:
    """Seconds of the preference `wait`, of all headers Prefer of a request: the first one counts.

    None where there is none, or it is malformed: a preference is no reason for an error.
    """
    for header in headers:
        for text in _PREFERENCES.findall(header.decode("latin-1")):
            found = _PREFERENCE.match(text)
            if found is not None and found[1].lower() == "wait":
                return _seconds(found[2] or "")
    return None


def _seconds(word: str) -> int | None:
    if word.startswith('"'):
        word = re.sub(r"\\(.)", r"\1", word[1:-1])
    # Ten digits are more than anyone waits, and int() takes no more than a few thousand.
    return int(word.lstrip("0")[:10] or 0) if word.isascii() and word.isdigit() else None
