"""Splits the text of an answer into content, reasoning and calls, while the text arrives.

`parser` reads text, in formats that `tool_families` and `reasoning_families` describe as data. Names that
other packages may import are in the FACE of `text`. Knows no tokens, and makes no constraints.
"""
