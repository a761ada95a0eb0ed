"""The constraint that a request puts on its answer, checked and built for the engine (xgrammar in SGLang).

`output_constraint` decides which constraint applies. Schemas, expressions and grammars that the engine cannot
enforce, or that would stall it, are refused. Enforces nothing itself, and reads no answers.
"""

#: What other packages may import, by module.
FACE = {
    "output_constraint": ("output_constraint", "text_constraint"),
}
