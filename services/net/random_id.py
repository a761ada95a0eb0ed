"""Makes random ids of 128 bits.

The random bytes of many ids are fetched at once, because one system call per id would cost more than the
rest.
"""

import os

_IDS_PER_CALL = 256
_ids: list[str] = []
# A forked process must not give out the ids of its parent.
os.register_at_fork(after_in_child=_ids.clear)


def random_id() -> str:
    """32 hexadecimal digits, from the operating system's secure random numbers."""
    try:
        return _ids.pop()
    except IndexError:
        digits = os.urandom(16 * _IDS_PER_CALL).hex()
        _ids.extend([digits[at : at + 32] for at in range(0, len(digits), 32)])
    return _ids.pop()
