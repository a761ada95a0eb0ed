"""Random ids: 128 bits of the operating system's each, of which many are fetched at a time, as a call of the
kernel for each takes longer than all else about it."""

import os

_AT_ONCE = 256
_ids: list[str] = []
# No two processes have the same.
os.register_at_fork(after_in_child=_ids.clear)


def random_id() -> str:
    """32 hexadecimal digits, which nobody can guess."""
    try:
        return _ids.pop()
    except IndexError:
        digits = os.urandom(16 * _AT_ONCE).hex()
        _ids.extend([digits[at : at + 32] for at in range(0, len(digits), 32)])
    return _ids.pop()
