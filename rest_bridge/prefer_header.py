"""The request header Prefer (RFC 7240), such as `Prefer: wait=10, respond-async`.

Reads the preference `wait` only; other preferences are ignored.
"""

import re
from collections.abc import Iterable

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# A comma within quotes does not separate preferences. A quote that is never closed reaches to the header's
# end: otherwise each unclosed quote would be searched for again, in time quadratic in the header's length.
_PREFERENCES = re.compile(r'(?:"(?:[^"\\]|\\.?)*(?:"|$)|[^,"])+', re.DOTALL)
# Parameters follow the first semicolon; `wait` has none.
_PREFERENCE = re.compile(rf"[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*({_TOKEN}|{_QUOTED}))?[ \t]*(?:;|$)")


def preferred_wait(headers: Iterable[bytes]) -> int | None:
    """Seconds of the preference `wait`; the first one counts. `headers` are all Prefer headers of a request.

    None if there is no such preference or its value is malformed: a preference never causes an error.
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
    # Ten digits exceed every limit, and int() refuses more than a few thousand digits.
    return int(word.lstrip("0")[:10] or 0) if word.isascii() and word.isdigit() else None
