"""Every token has exactly one row, and rows lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from builders import synthetic_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from tracescribe.errors import DataFormatError
from tracescribe.tracer import TokenKind, TraceError
from tracescribe.tracer.pairs.roles import QUANTMEYER_ROWS, assign_rows

START, ORDINARY, PUNCTUATION, END, PADDING = (
    TokenKind.START,
    TokenKind.ORDINARY,
    TokenKind.PUNCTUATION,
    TokenKind.END,
    TokenKind.PADDING,
)


@st.composite
def sentences(draw):
    """kinds and differs of one pair of any shape: with or without specials and attended padding."""
    body = draw(st.lists(st.tuples(st.sampled_from([ORDINARY, PUNCTUATION]), st.booleans()), min_size=1, max_size=8))
    start, end, padding = draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.integers(0, 3))
    kinds = [START] * start + [kind for kind, _ in body] + [END] * end + [PADDING] * padding
    differs = [False] * start + [d for _, d in body] + [False] * (end + padding)
    return kinds, differs


def batch(pairs, width=None):
    width = width or max(len(kinds) for kinds, _ in pairs)
    kinds = np.array([k + [0] * (width - len(k)) for k, _ in pairs], dtype=np.int8)
    differs = np.array([d + [False] * (width - len(d)) for _, d in pairs])
    return kinds, differs, [tuple("x" for _ in k) for k, _ in pairs], [str(i) for i in range(len(pairs))]


@settings(deadline=None)
@given(st.lists(sentences(), min_size=1, max_size=4), st.sampled_from(["role", "position"]))
def test_rows_partition_the_tokens(pairs, align):
    kinds, *rest = batch(pairs, width=16)
    rows = assign_rows(align, kinds, *rest)
    assert ((rows.index >= 0) == (kinds != 0)).all()
    assert rows.index.max() < len(rows.labels)
    member = rows.member()
    assert (member.sum(axis=2) == (kinds != 0)).all()
    assert member.sum() == sum(len(k) for k, _ in pairs)


def roles(kinds, differs):
    rows = assign_rows("role", *batch([(kinds, differs)]))
    return [rows.labels[i] for i in rows.index[0]]


def test_roles_of_the_usual_sentence():
    kinds = [START, ORDINARY, ORDINARY, ORDINARY, ORDINARY, ORDINARY, PUNCTUATION, END]
    differs = [False] * 3 + [True] + [False] * 4
    assert roles(kinds, differs) == [
        "[start]", "before", "before", "first differing", "first after", "further after", "punctuation", "[end]",
    ]  # fmt: skip


def test_equal_tokens_between_differing_ones_come_after():
    kinds = [START, ORDINARY, ORDINARY, ORDINARY, ORDINARY, END]
    assert roles(kinds, [False, True, False, True, False, False]) == [
        "[start]", "first differing", "first after", "further differing", "further after", "[end]",
    ]  # fmt: skip


def test_only_the_final_run_of_equal_punctuation_is_punctuation():
    kinds = [START, PUNCTUATION, ORDINARY, PUNCTUATION, ORDINARY, PUNCTUATION, PUNCTUATION, END]
    differs = [False, False, True] + [False] * 5
    assert roles(kinds, differs) == [
        "[start]", "before", "first differing", "first after", "further after", "punctuation", "punctuation", "[end]",
    ]  # fmt: skip
    # A differing full stop is a difference, whatever it is made of.
    kinds = [START, ORDINARY, PUNCTUATION, END]
    assert roles(kinds, [False, False, True, False]) == ["[start]", "before", "first differing", "[end]"]


def test_padding_that_is_attended_to_has_its_own_row():
    kinds = [ORDINARY, ORDINARY, END, PADDING, PADDING]
    assert roles(kinds, [False, True] + [False] * 3)[-3:] == ["[end]", "padding", "padding"]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.integers(1, 4), st.sampled_from(["role", "quantmeyer", "position"]))
def test_rows_weighted_by_their_tokens_sum_to_the_tokens(seed, n_subject, align):
    trace = synthetic_trace(n_pairs=1, seed=seed, n_subject=n_subject, share_inverted=0)
    cells = trace.map(align=align)
    rows = assign_rows(align, trace.kinds, trace.differs, trace.tokens, trace.ids)
    tokens = np.array([(rows.index == rows.labels.index(row)).sum() for row in cells.rows])
    assert tokens.sum() == len(trace.tokens[0])
    total = np.nansum(cells.values * tokens, axis=1)
    np.testing.assert_allclose(total, trace.per_layer().value, atol=1e-12)
    np.testing.assert_allclose(total, np.nansum(trace.cte[0], axis=1), atol=1e-5)  # cte is float32


def test_a_mean_row_is_weighted_by_tokens_across_pairs():
    trace = synthetic_trace(n_pairs=2, n_texts=2, n_subject=3, vary_length=True, share_inverted=0)
    cells = trace.map(align="quantmeyer", reduce="mean_of_ratios")
    first, second = (trace.cte[i].astype(np.float64) for i in (0, 1))
    expected = (first[:, 5:7].sum(axis=1) + second[:, 5:8].sum(axis=1)) / 5
    np.testing.assert_allclose(cells.row("further subject tokens (mean)"), expected, atol=1e-6)
    assert cells.counts.tolist() == [2] * 8


def test_position_rows_are_those_of_the_longest_pair():
    trace = synthetic_trace(n_pairs=4, n_texts=2, vary_length=True, share_inverted=0)
    cells = trace.map(align="position")
    assert cells.rows == tuple(map(str, range(8)))
    assert cells.counts.tolist() == [4] * 7 + [2]
    assert trace.select([0, 2]).map(align="position").rows == tuple(map(str, range(7)))


def test_one_pair_by_position_is_its_own_cte():
    trace = synthetic_trace(n_pairs=1, share_inverted=0)
    for reduce in ("ratio_of_means", "mean_of_ratios", "median"):
        np.testing.assert_allclose(trace.map(align="position", reduce=reduce).values, trace.cte[0], atol=1e-6)


def test_rows_that_no_pair_has_are_left_out_but_quantmeyers_are_always_eight():
    trace = synthetic_trace(n_subject=1, share_inverted=0)
    assert "further differing" not in trace.map().rows
    cells = trace.map(align="quantmeyer")
    assert cells.rows == QUANTMEYER_ROWS
    assert cells.counts[5] == 0
    assert np.isnan(cells.values[:, 5]).all()
    np.testing.assert_allclose(cells.per_layer().value, trace.per_layer().value, atol=1e-12)


QUANTMEYER = ("[SOT]", "There</w>", "are</w>", "some</w>", "dogs</w>", ".</w>", "[EOT]")


def quantmeyer(tokens, differs=(3,), kinds=None):
    kinds = kinds or [START] + [ORDINARY] * (len(tokens) - 3) + [PUNCTUATION, END]
    return assign_rows(
        "quantmeyer",
        np.array([kinds], dtype=np.int8),
        np.isin(np.arange(len(tokens)), differs)[None],
        [tuple(tokens)],
        ["item7"],
    )


def test_quantmeyers_rows_whatever_marks_the_tokenizer_writes():
    assert quantmeyer(QUANTMEYER).index.tolist() == [[0, 1, 2, 3, 4, 6, 7]]
    long = [*QUANTMEYER[:5], "in", "view", *QUANTMEYER[5:]]
    assert quantmeyer(long).index.tolist() == [[0, 1, 2, 3, 4, 5, 5, 6, 7]]


@pytest.mark.parametrize(
    ("tokens", "differs"),
    [
        (("[SOT]", "you", "see", "some", "dogs", ".", "[EOT]"), (3,)),
        (("[SOT]", "there", "are", "two", "dogs", ".", "[EOT]"), (3,)),
        (("[SOT]", "there", "are", "no", ".", "[EOT]"), (3,)),
        (("[SOT]", "there", "are", "no", "dogs", "!", "[EOT]"), (3,)),
        (QUANTMEYER, (3, 4)),
        (QUANTMEYER, (4,)),
        (QUANTMEYER, ()),
    ],
)
def test_other_shapes_are_refused_by_name(tokens, differs):
    with pytest.raises(DataFormatError, match=r"item7.*dogs|item7.*no \."):
        quantmeyer(tokens, differs)


def test_locality_needs_to_know_where_to_start():
    cells = synthetic_trace().map()
    np.testing.assert_allclose(cells.locality(), cells.values[:, cells.rows.index("first differing") :].std(axis=1))
    with pytest.raises(TraceError, match="start="):
        synthetic_trace().map(align="position").locality()
    with pytest.raises(TraceError, match="'middle'"):
        cells.locality("middle")
