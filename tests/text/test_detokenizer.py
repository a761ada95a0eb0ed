"""Special tokens that stay in the text while others are skipped, byte-level and SentencePiece."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from inferd.services.text.detokenizer import Detokenizer
from inferd.services.text.tokenizer import Tokenizer as ModelTokenizer

MARKER = "<|tool\u2581call|>"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> ModelTokenizer:
    """A vocabulary of SentencePiece pieces and bytes, as Llama 2's: its decoder makes a space of each
    word boundary mark, and takes the text's first one away."""
    vocabulary = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581Hello",
        "\u2581world",
        "lo",
        "!",
    ]
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(vocabulary)}, [], byte_fallback=True, unk_token="<unk>"
        )
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    backend.add_special_tokens([AddedToken(MARKER, normalized=False)])
    backend.add_tokens(["<plain>"])
    folder = tmp_path_factory.mktemp("pieces")
    return load(backend, folder)


def load(backend: Tokenizer, folder: Path) -> ModelTokenizer:
    from transformers import PreTrainedTokenizerFast

    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ModelTokenizer(PreTrainedTokenizerFast.from_pretrained(folder))


def ids_of(tokenizer: ModelTokenizer, *tokens: str) -> list[int]:
    return [tokenizer.backend.token_to_id(token) for token in tokens]


def detokenize(tokenizer: ModelTokenizer, ids: list[int], prompt: list[int], keep: frozenset[int]) -> str:
    detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens=True, keep=keep)
    return "".join([*map(detokenizer.add, ids), detokenizer.finish()])


def test_markers_are_found_among_special_tokens_alone(pieces):
    [marker, end] = ids_of(pieces, MARKER, "</s>")
    assert pieces.ids_of(frozenset({MARKER, "</s>", "<plain>", "Hello", "<|none|>"})) == {marker, end}
    assert pieces.ids_of(frozenset()) == frozenset()


def test_a_marker_stands_as_it_is_in_the_vocabulary_and_words_keep_their_spaces(pieces):
    hello, world, marker, end = ids_of(pieces, "\u2581Hello", "\u2581world", MARKER, "</s>")
    keep = frozenset({marker})
    ids = [hello, marker, world, end, hello, marker, marker, world]
    assert detokenize(pieces, ids, [world], keep) == f" Hello{MARKER} world Hello{MARKER}{MARKER} world"
    # A prompt that ends with a skipped token ends with the word before it.
    assert detokenize(pieces, [hello], [world, end], keep) == " Hello"
    assert detokenize(pieces, [hello], [marker], keep) == " Hello"


def test_half_a_character_before_a_marker_is_told_before_it(pieces):
    first, second, marker, end = ids_of(pieces, "<0xC3>", "<0xA9>", MARKER, "</s>")
    keep = frozenset({marker})
    assert detokenize(pieces, [first, marker, second], [], keep) == f"\ufffd{MARKER}\ufffd"
    # A token that is skipped does not part a character.
    assert detokenize(pieces, [first, end, second, marker], [], keep) == f"é{MARKER}"


@given(st.lists(st.integers(0, 260), max_size=20), st.lists(st.integers(0, 264), max_size=6))
def test_the_rest_is_skipped_as_the_library_skips_it(pieces, ids, prompt):
    """With a kept token that does not occur, the text is the library's own."""
    marker, *others = ids_of(pieces, MARKER, "<s>", "</s>")
    mixed = [token for index, token in enumerate(ids) for token in (token, others[index % 2])]
    prompt = [token for token in prompt if token != marker]
    assert detokenize(pieces, mixed, prompt, frozenset({marker})) == detokenize(
        pieces, mixed, prompt, frozenset()
    )


@given(st.lists(st.integers(0, 399), max_size=40))
def test_kept_tokens_of_a_byte_level_vocabulary(small_text, ids):
    tokenizer = small_text.tokenizer
    ids = [token_id % small_text.vocabulary_size for token_id in ids]
    keep = tokenizer.ids_of(frozenset({"<|im_start|>"}))
    dropped = set(ids_of(tokenizer, "<|endoftext|>", "<|im_end|>"))
    kept = [token_id for token_id in ids if token_id not in dropped]
    assert detokenize(tokenizer, ids, [], keep) == tokenizer.decode(kept, skip_special_tokens=False)
