"""The application: the command line, the processes that it starts, and how the parts of a process are put
together.

This package has no logic of requests. It may import every other package, and no other package imports it.
"""

#: What other packages may import, by module: nothing.
FACE: dict[str, tuple[str, ...]] = {}
