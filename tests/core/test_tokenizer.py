"""Text to token IDs and back, for every kind of tokenizer."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tinylm_core.tokenizer import Tokenizer, UnknownCharacterError, token_dtype, tokenizer_from_json, train_tokenizer

TEXT = "The cat sat on the mat.\n\n    def cat(mat):\n        return mat  # ünïcode → 😀\r\n" * 20
TRAINED = {kind: train_tokenizer(kind, [TEXT], 300 if kind == "bpe" else None) for kind in ("char", "byte", "bpe")}

any_kind = pytest.mark.parametrize("kind", TRAINED)
# Long lines, long runs of line ends and characters of one to four bytes: all that decides where bpe cuts.
awkward = st.lists(
    st.sampled_from(["a" * 4095, "at " * 1500, "\n", "\n" * 63, "\n" * 65, "\r\n", " ", "  def", "cat", "→", "😀"])
).map("".join)


def cut(text: str, places: list[int]) -> list[str]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(text=st.text() | awkward)
def test_decoding_gives_back_any_text_that_was_encoded(kind: str, text: str) -> None:
    assert TRAINED[kind].decode(TRAINED[kind].encode(text)) == text


@given(text=st.text(alphabet=sorted(set(TEXT))))
def test_decoding_gives_back_the_characters_that_are_known(text: str) -> None:
    assert TRAINED["char"].decode(TRAINED["char"].encode(text)) == text


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(text=awkward, places=st.lists(st.integers(min_value=0), max_size=10))
def test_chunks_of_any_size_give_the_tokens_of_the_whole(kind: str, text: str, places: list[int]) -> None:
    chunks = list(TRAINED[kind].encode_chunks(cut(text, places)))
    assert [token for chunk in chunks for token in chunk] == TRAINED[kind].encode(text).tolist()


def test_bpe_reads_and_encodes_single_characters_like_the_whole() -> None:
    assert train_tokenizer("bpe", TEXT, 300).to_json() == TRAINED["bpe"].to_json()
    assert np.concatenate(list(TRAINED["bpe"].encode_chunks(TEXT))).tolist() == TRAINED["bpe"].encode(TEXT).tolist()


@any_kind
@given(ids=st.lists(st.integers(min_value=-5, max_value=2**17)))
def test_decoding_never_fails_and_ignores_ids_beyond_the_vocabulary(kind: str, ids: list[int]) -> None:
    tokenizer = TRAINED[kind]
    known = [i for i in ids if 0 <= i < tokenizer.vocab_size]
    assert tokenizer.decode(ids) == tokenizer.decode(np.array(known, dtype=np.uint16))
    assert tokenizer.decode([tokenizer.vocab_size, 2**24]) == ""


@any_kind
def test_json_gives_back_the_same_tokenizer(kind: str) -> None:
    again = tokenizer_from_json(TRAINED[kind].to_json())
    assert type(again) is type(TRAINED[kind])
    assert again.vocab_size == TRAINED[kind].vocab_size
    assert again.to_json() == TRAINED[kind].to_json()
    assert again.encode(TEXT).tolist() == TRAINED[kind].encode(TEXT).tolist()


@given(text=st.text())
def test_other_text_is_no_tokenizer(text: str) -> None:
    with pytest.raises(ValueError, match="not a tokenizer"):
        tokenizer_from_json(text)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        3,
        {"kind": "char"},
        {"kind": "char", "alphabet": "aa"},
        {"kind": "char", "alphabet": 5},
        {"kind": "word"},
        {"model": {"type": "BPE"}},
        {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"}},
    ],
)
def test_other_json_is_no_tokenizer(content: object) -> None:
    with pytest.raises(ValueError, match="not a tokenizer"):
        tokenizer_from_json(json.dumps(content))


def test_deeply_nested_json_is_no_tokenizer() -> None:
    with pytest.raises(ValueError, match="not a tokenizer"):
        tokenizer_from_json("[" * 100_000)


def test_bpe_training_is_the_same_in_every_process() -> None:
    program = f"from tinylm_core.tokenizer import train_tokenizer as t; print(t('bpe', [{TEXT!r}], 300).to_json())"
    for hash_seed, threads in [("1", "1"), ("2", "4")]:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8", check=True
        )
        assert done.stdout.strip() == TRAINED["bpe"].to_json()


def test_bpe_json_is_read_by_its_own_library() -> None:
    line = "The cat sat on the mat.\n"
    library = tokenizers.Tokenizer.from_str(TRAINED["bpe"].to_json())
    assert library.encode(line).ids == TRAINED["bpe"].encode(line).tolist()


def test_bpe_makes_a_blank_line_one_token() -> None:
    tokenizer = train_tokenizer("bpe", [TEXT], 400)
    assert tokenizer.encode("\n\n").shape == (1,)
    assert "\n\n" in [tokenizer.decode([i]) for i in tokenizer.encode(TEXT)]


def test_bpe_compresses_what_it_was_trained_on() -> None:
    assert len(TRAINED["bpe"].encode(TEXT)) < len(TEXT.encode()) / 2


def test_bpe_has_at_most_the_vocabulary_asked_for() -> None:
    assert train_tokenizer("bpe", [TEXT], 256).vocab_size == 256
    assert TRAINED["bpe"].vocab_size == 300
    assert train_tokenizer("bpe", ["abc"], 1000).vocab_size == 256


def test_byte_tokens_are_the_utf8_bytes() -> None:
    assert TRAINED["byte"].encode("aé→").tolist() == list("aé→".encode())


def test_char_tokens_are_numbered_by_code_point() -> None:
    tokenizer = train_tokenizer("char", ["b", "", "😀a", "é"], None)
    assert tokenizer.encode("abé😀").tolist() == [0, 1, 2, 3]
    assert tokenizer.vocab_size == 4


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_half_a_character_is_decoded_as_a_replacement(kind: str) -> None:
    tokenizer = TRAINED[kind]
    ids = [*tokenizer.encode("\U0010fffd")[:-1], *tokenizer.encode("a")]
    assert tokenizer.decode(ids).endswith("a")
    assert "\ufffd" in tokenizer.decode(ids)


@pytest.mark.parametrize("character", ["b", "\x00", "😀", "\ud800"])
def test_an_unknown_character_is_named_with_its_position(character: str) -> None:
    tokenizer = train_tokenizer("char", ["ac"], None)
    with pytest.raises(UnknownCharacterError) as caught:
        list(tokenizer.encode_chunks(["aca", "ca" + character]))
    assert (caught.value.character, caught.value.position) == (character, 5)
    assert repr(character) in str(caught.value)


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_a_lone_surrogate_is_a_value_error(kind: str) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        TRAINED[kind].encode("a\ud800")


@pytest.mark.parametrize(("kind", "vocab_size", "needed"), [("bpe", 255, 256), ("byte", 255, 256), ("char", 2, 3)])
def test_a_vocabulary_too_small_is_refused_with_the_size_needed(kind: str, vocab_size: int, needed: int) -> None:
    with pytest.raises(ValueError, match=f"^vocab_size={vocab_size}: at least {needed}"):
        train_tokenizer(kind, ["abc"], vocab_size)


@any_kind
def test_no_text_has_no_tokens(kind: str) -> None:
    tokenizer: Tokenizer = TRAINED[kind]
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.uint16
    assert tokenizer.decode([]) == ""


def test_ids_take_two_bytes_while_they_fit() -> None:
    assert token_dtype(65_536) is np.uint16
    assert token_dtype(65_537) is np.uint32
