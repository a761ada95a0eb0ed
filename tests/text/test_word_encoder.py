"""The word table gives the same ids as the tokenizers library for any text, with common pre-tokenizers."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from inferd.services.text import word_encoder, word_pattern
from inferd.services.text.tokenizer import Tokenizer as ModelTokenizer

_CORPUS = [
    "It's what you'd say: we've 123 or 45678 of them, DON'T they'll see HTTPServer and snake_case?",
    "  if (a == 1) {\r\n\t\treturn -1.5e10;  // ok\n  }\n\n\n",
    "Größe, naïve café “quoted” — 東京都 ひらがな 🙂 ١٢٣",
] * 3

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(expression), "isolated")


def _bytes(*, use_regex: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


_CUTS = {
    "gpt2": _bytes(use_regex=True),
    "digits": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _bytes(use_regex=True)]
    ),
    "llama3": pre_tokenizers.Sequence([_split(_LLAMA3), _bytes()]),
    "qwen2": pre_tokenizers.Sequence([_split(_QWEN2), _bytes()]),
    "o200k": pre_tokenizers.Sequence([_split(_O200K), _bytes()]),
    "deepseek": pre_tokenizers.Sequence(
        [_split(r"\p{N}{1,3}"), _split("[一-龥぀-ヿ]+"), _split(_DEEPSEEK), _bytes()]
    ),
}
_ADDED = ["<|im_start|>", "<|im_end|>", "<|im", "<think>", "  ", "ll"]


def _backend(cut: pre_tokenizers.PreTokenizer, *, normalized: bool = False) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = cut
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]
        vocab_size=600, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_CORPUS, trainer)
    added = [AddedToken(text, normalized=normalized and "im" in text) for text in _ADDED]
    backend.add_special_tokens(added)
    backend.post_processor = TemplateProcessing(
        single="<|im $A ll", special_tokens=_ids(backend, "<|im", "ll")
    )
    return backend


def _ids(backend: Tokenizer, *texts: str) -> list[tuple[str, int]]:
    return [(text, backend.token_to_id(text) or 0) for text in texts]


def _tokenizer(backend: Tokenizer) -> ModelTokenizer:
    return ModelTokenizer(_Fast(backend))


class _Fast:
    """What inferd uses of a transformers tokenizer."""

    is_fast = True
    name_or_path = "test"

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()


_BACKENDS = {name: _backend(cut) for name, cut in _CUTS.items()}
_BACKENDS["normalized added tokens"] = _backend(_CUTS["qwen2"], normalized=True)
_BACKENDS["NFC"] = _backend(_CUTS["qwen2"])
_BACKENDS["NFC"].normalizer = normalizers.NFC()
_TOKENIZERS = {name: _tokenizer(backend) for name, backend in _BACKENDS.items()}

_PIECES = st.one_of(
    st.sampled_from([*_ADDED, *" ".join(_CORPUS).split(" "), " ", "\n", "\r\n", "\t", "'S", "<", "|>"]),
    st.text(st.characters(max_codepoint=127), max_size=8),
    st.text(string.ascii_letters + " '\n1", max_size=12),
    st.text(max_size=3),
)
_TEXTS = st.lists(_PIECES, max_size=12).map("".join)


@pytest.mark.parametrize("name", _TOKENIZERS)
def test_the_ids_are_the_librarys(name: str) -> None:
    tokenizer = _TOKENIZERS[name]
    assert tokenizer.encodes_words

    @settings(deadline=None)
    @given(_TEXTS, st.booleans())
    @example("", True)
    @example("a" * 70_000, False)
    @example(" b" + "a" * 50_000 + " c" * 10, True)
    @example(" x" * 40_000, True)
    def same(text: str, special: bool) -> None:
        expected = tokenizer.backend.encode(text, add_special_tokens=special).ids
        assert tokenizer.encode(text, add_special_tokens=special) == expected

    same()


def test_a_full_table_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_encoder, "_MAX_WORDS", 10)
    tokenizer = _TOKENIZERS["llama3"]
    text = " ".join(f"word{number} {'long' * 20}" for number in range(100))
    for _ in range(2):
        assert tokenizer.encode(text, add_special_tokens=False) == tokenizer.backend.encode(text).ids[1:-1]


def test_what_is_kept_is_the_same_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _backend(_CUTS["gpt2"])
    turns = [f"<|im_start|>Größe {turn}, it's\n<|im_end|>it's {turn}" for turn in range(50)]
    chats = ["".join(turns[:end]) for end in range(50)] * 2
    expected = [backend.encode(chat, add_special_tokens=False).ids for chat in chats]
    for most in (2_000_000, 100, 0):
        monkeypatch.setattr(word_encoder, "_MAX_SEGMENT_CHARACTERS", most)
        tokenizer = _tokenizer(backend)
        for chat, ids in zip(chats, expected, strict=True):
            found = tokenizer.encode(chat, add_special_tokens=False)
            assert found == ids
            # The caller's own.
            found.clear()
        encoder = tokenizer._word_encoder
        assert encoder is not None
        assert sum(map(len, encoder._segment_ids)) <= most + 100


def _changed(**parts: object) -> Tokenizer:
    backend = _backend(_bytes(use_regex=True))
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


def _with_added(**flags: bool) -> Tokenizer:
    backend = _backend(_bytes(use_regex=True))
    backend.add_tokens([AddedToken("<x>", **flags)])
    return backend


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            _changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), id="prefix space"
        ),
        pytest.param(_changed(pre_tokenizer=pre_tokenizers.Metaspace()), id="SentencePiece"),
        pytest.param(_changed(normalizer=normalizers.Lowercase()), id="lower case"),
        pytest.param(_changed(encode_special_tokens=True), id="special tokens as text"),
        pytest.param(_with_added(lstrip=True, normalized=False), id="lstrip"),
        pytest.param(_with_added(rstrip=True, normalized=False), id="rstrip"),
        pytest.param(_with_added(single_word=True, normalized=False), id="single word"),
        *(
            pytest.param(
                _changed(pre_tokenizer=pre_tokenizers.Sequence([_split(cut), _bytes()])),
                id=f"expression {cut}",
            )
            for cut in (
                r"^\w+",
                r"\w+$",
                r"[\w&&[^a]]+",
                r"\bx",
                r"(?<=a)b",
                r"x{2}+",
                r"[\P{L}1]+",
                r"\p{Greek}",
            )
        ),
        pytest.param(
            _changed(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), _bytes()])),
            id="removed",
        ),
    ],
)
def test_what_is_not_known_is_left_to_the_library(backend: Tokenizer) -> None:
    tokenizer = _tokenizer(backend)
    assert not tokenizer.encodes_words
    for text in ("a <x> b xx 12", _CORPUS[0]):
        assert (
            tokenizer.encode(text, add_special_tokens=False)
            == backend.encode(text, add_special_tokens=False).ids
        )


def test_a_table_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    other = word_pattern.word_patterns(_BACKENDS["gpt2"])
    monkeypatch.setattr(word_pattern, "word_patterns", lambda backend: other)
    assert not _tokenizer(_BACKENDS["o200k"]).encodes_words
