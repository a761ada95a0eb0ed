"""Reads one log probability of SGLang's. Knows nothing of the message that has it."""

import math

#: With SGLANG_SANITIZE_NAN_LOGITS, SGLang writes -1e30 for the logit of a token that a grammar rules out, and
#: less at a low temperature. The logits of models are much greater.
_RULED_OUT = -1e20


def logprob_value(value: float) -> float:
    """The log probability; minus infinity for a token that was ruled out."""
    return value if value > _RULED_OUT else -math.inf
