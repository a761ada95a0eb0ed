"""The engine's own grammar compiler, in process: which texts a constraint allows. The tokens are bytes."""

import json
import random

import xgrammar

from inferd.services.runtimes.base import Constraint

_END = 256
_TOKENIZER = xgrammar.TokenizerInfo(
    [bytes([byte]) for byte in range(256)] + [b"<end>"],
    xgrammar.VocabType.RAW,
    vocab_size=257,
    stop_token_ids=[_END],
)
_COMPILER = xgrammar.GrammarCompiler(_TOKENIZER, max_threads=1, cache_enabled=False)
#: Bytes that end a random text.
_CLOSING = frozenset(b'"}]>1a')


class Grammar:
    """A compiled constraint. Raises RuntimeError where xgrammar takes it for wrong."""

    def __init__(self, constraint: Constraint) -> None:
        text = constraint.text
        match constraint.kind:
            case "json_schema":
                self._compiled = _COMPILER.compile_json_schema(text)
            case "regex":
                self._compiled = _COMPILER.compile_regex(text)
            case "ebnf":
                self._compiled = _COMPILER.compile_grammar(text)
            case "structural_tag":
                self._compiled = _COMPILER.compile_structural_tag(text)

    def accepts(self, text: str) -> bool:
        """Whether it allows this text, and then its end."""
        matcher = xgrammar.GrammarMatcher(self._compiled)
        return matcher.accept_string(text) and matcher.accept_token(_END)

    def random_text(self, seed: int, limit: int = 2000) -> str | None:
        """A text that it allows, always the same for a seed; None where it came to no end."""
        choose = random.Random(seed)
        matcher = xgrammar.GrammarMatcher(self._compiled)
        mask = xgrammar.allocate_token_bitmask(1, 257)
        written = bytearray()
        for _ in range(limit):
            matcher.fill_next_token_bitmask(mask, 0)
            bits = mask.numpy().tobytes()
            allowed = [i for i in range(257) if bits[i // 8] >> i % 8 & 1]
            if not allowed:
                raise AssertionError(f"nothing may follow {bytes(written)!r}")
            if _END in allowed and choose.random() < 0.5:
                return written.decode()
            closing = [i for i in allowed if i in _CLOSING]
            usual = [i for i in allowed if chr(i).isascii() and chr(i) not in " \t\r\n"]
            pool = closing if closing and choose.random() < 0.6 else usual or allowed
            token = choose.choice(pool)
            if token == _END:
                return written.decode()
            assert matcher.accept_token(token)
            written.append(token)
        return None


def documents(constraint: Constraint, count: int = 20) -> list[object]:
    """Random JSON documents that a constraint allows."""
    grammar = Grammar(constraint)
    texts = [grammar.random_text(seed) for seed in range(count)]
    return [json.loads(text) for text in texts if text is not None]
