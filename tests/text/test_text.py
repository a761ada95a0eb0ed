"""Detokenizing and stop strings, wherever the text is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.services.text.detokenizer import Detokenizer
from inferd.services.text.model_text import ModelText
from inferd.services.text.stop import StopStrings
from tests.support.small_model import write_small_model


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> ModelText:
    return ModelText.load(write_small_model(tmp_path_factory.mktemp("model")))


def detokenize(text: ModelText, ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(text.tokenizer, [], skip_special_tokens=skip)
    return [*map(detokenizer.add, ids), detokenizer.finish()]


@given(st.text(max_size=60))
def test_a_text_comes_back_and_no_piece_has_half_a_character(text, string):
    ids = text.tokenizer.encode(string, add_special_tokens=False)
    pieces = detokenize(text, ids, skip=False)
    assert "".join(pieces) == string
    assert "\ufffd" in string or all("\ufffd" not in piece for piece in pieces)


@given(st.lists(st.integers(0, 399), max_size=40), st.booleans())
def test_any_tokens_give_the_text_that_decoding_them_at_once_gives(text, ids, skip):
    ids = [token_id % text.vocabulary_size for token_id in ids]
    whole = text.tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(detokenize(text, ids, skip=skip)) == whole


def test_a_character_waits_for_its_last_token(text):
    ids = text.tokenizer.encode("𝄞", add_special_tokens=False)
    assert len(ids) == 4
    assert detokenize(text, ids) == ["", "", "", "𝄞", ""]
    assert detokenize(text, ids[:3]) == ["", "", "", "\ufffd"]


@given(st.lists(st.integers(0, 399), max_size=30))
def test_the_bytes_of_tokens_join_to_the_text(text, ids):
    ids = [token_id % text.vocabulary_size for token_id in ids]
    joined = b"".join(map(text.tokenizer.token_bytes, ids)).decode(errors="replace")
    assert joined == text.tokenizer.decode(ids, skip_special_tokens=False)


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(0, 30), max_size=10),
)
def test_stop_strings_cut_the_same_however_the_text_is_cut(string, stops, cuts):
    bounds = [0, *sorted(min(cut, len(string)) for cut in cuts), len(string)]
    machine = StopStrings(stops)
    out = ""
    for start, end in itertools.pairwise(bounds):
        out += machine.feed(string[start:end])
        # No text that might begin a stop string was sent.
        assert not any(stop in out for stop in stops)
        if machine.matched:
            break
    else:
        out += machine.finish()
    found = [(string.find(stop) + len(stop), string.find(stop)) for stop in stops if stop in string]
    if not found:
        assert (out, machine.matched) == (string, None)
    else:
        end, start = min(found)
        assert (out, machine.matched) == (string[:start], string[start:end])
