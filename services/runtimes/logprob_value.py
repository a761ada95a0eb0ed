"""One log probability as engines tell it. Knows nothing of how it came."""

import math

#: SGLang writes -1e30 for the logit of a token that a grammar rules out, where it is told to keep to finite
#: numbers (SGLANG_SANITIZE_NAN_LOGITS), and less at a low temperature. No model's logits come near.
_RULED_OUT = -1e20


def logprob_value(value: float) -> float:
    """The log probability; minus infinity for a token that was ruled out."""
    return value if value > _RULED_OUT else -math.inf
