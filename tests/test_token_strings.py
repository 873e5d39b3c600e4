"""Token strings: a part of a word never looks like a word, by every tokenizer's own marks, and no text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from tracescribe.patching.towers.tokenizers import CallableTokenizer, OpenClipBpe, TransformersTokenizer
from tracescribe.token_strings import JOIN, WordMarks, is_part_of_word
from tracescribe.tracer.pairs.roles import plain_word


@pytest.fixture(scope="module")
def bpe() -> OpenClipBpe:
    return OpenClipBpe(SimpleTokenizer())


def strings(tokenizer: OpenClipBpe, text: str) -> list[str]:
    return tokenizer.strings(tokenizer.encode(text))[1:-1]


def test_no_in_a_longer_word_is_not_the_word_no(bpe: OpenClipBpe) -> None:
    for text in ("no nodulectasis", "sternonotomy no"):
        shown = strings(bpe, text)
        assert shown.count("no") == 1 and "".join(shown).replace(JOIN, "") == text.replace(" ", "")
        parts = [token for token in shown if is_part_of_word(token)]
        assert len(parts) >= 2 and all(plain_word(token) != "no" for token in parts)


@pytest.mark.parametrize(
    ("mark", "pieces"),
    [
        ("</w>", ["no</w>", "no", "dule</w>", ".</w>"]),
        ("Ġ", ["no", "Ġno", "dule", "."]),
        ("▁", ["▁no", "▁no", "dule", "."]),
        ("##", ["no", "no", "##dule", "."]),
    ],
)
def test_every_convention_gives_the_same_strings(mark: str, pieces: list[str]) -> None:
    marks = WordMarks.of([*pieces, "Ġx" if mark == "Ġ" else pieces[0]])
    assert marks.mark == mark
    assert marks.strings(pieces) == ["no", "no·", "·dule", "."]


def test_special_tokens_neither_join_nor_get_joined() -> None:
    assert WordMarks("Ġ").strings(["<s>", "no", "dule", "</s>"], ["[SOT]", None, None, "[EOT]"]) == [
        "[SOT]",
        "no·",
        "·dule",
        "[EOT]",
    ]


def test_characters_that_are_split_over_tokens_are_shown_whole(bpe: OpenClipBpe) -> None:
    shown = strings(bpe, "無し no")
    assert "\ufffd" not in "".join(shown) and shown[-1] == "no"
    assert all("無" in token or "し" in token for token in shown[:-1])
    assert WordMarks("▁").strings(["▁", "<0xE7>", "<0x84>", "<0xA1>"])[1:] == ["無 1/3", "無 2/3", "無 3/3"]
    assert WordMarks("▁").strings(["<0xE7>", "a"]) == ["<0xE7>", "a"]  # bytes of no character
    assert WordMarks("##").strings(["無", "し"]) == ["無", "し"]  # no spaces in this script: no marks


def test_literal_middle_dots_are_no_marks(bpe: OpenClipBpe) -> None:
    assert strings(bpe, "0·5 mm") == ["0", "·", "5", "mm"]
    assert not is_part_of_word("·")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_shown(text: str) -> None:
    tokenizer = OpenClipBpe(SIMPLE)
    ids = tokenizer.encode(text)
    shown = tokenizer.strings(ids)
    assert len(shown) == len(ids) and all(shown)
    "".join(shown).encode()


SIMPLE = SimpleTokenizer()


def test_a_callable_tokenizers_spaces_are_read(bpe: OpenClipBpe) -> None:
    simple = CallableTokenizer(SIMPLE, 77)
    ids = simple.encode("no nodulectasis")
    assert simple.strings(ids)[1:-1] == strings(bpe, "no nodulectasis")


def test_a_transformers_tokenizer_says_its_own_marks() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: i for i, piece in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "no", "##dule", "##no"])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    assert TransformersTokenizer(fast).strings([1, 4, 5, 6, 4, 2]) == ["[CLS]", "no·", "·dule·", "·no", "no", "[SEP]"]
