"""Draws odd input: words, Python values, JSON documents with mistakes in them, and files with damaged bytes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

ODD = [
    *("", " ", "²", "nan", "inf", "-inf", "1e400", "9" * 5000, "x" * 300, "\0", "\ud800", "..", ".", "/", "/dev/null"),
    *("each", "all", "none", "auto", "0", "-1", "1.5", "true", "null", "[]", "{}", "negated->affirmative", "role"),
    *("[end]", "foil->correct", "correct->foil", "resid", "attn", "mlp", "z", "q", "pattern", "attribution", "direct"),
    *("generic", "resume", "1,2", "0,0", "-3", "2.5.1", "1e-4", "%s", "{0}", "$(touch hacked)", "`id`", "<b>", "sum"),
    *("\x1b[2J", "\u202e", "\n", "a\nb", "\ufeff", "é", "不", "🫁" * 90, "\\", "'", '"', "nein/da", "phantom", "mean"),
]
"""Words that mean something elsewhere, or nothing anywhere."""

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, 2**64, -(2**64), 10**400, 0.5, 1.5, -0.0, 1e308, 1e400, -1e400),
    *(float("nan"), 1e-320, np.int64(1), np.float32(0.5), np.float64("nan"), np.bool_(True), np.array([1, 2])),
    *(np.array(3), np.array(["a"]), np.array([None]), np.ma.masked_array([1.0, 2.0], [True, False]), np.zeros((0, 3))),
    *([], [0], [1.5], (1, 2), {}, {"a": 1}, set(), frozenset({1}), b"", b"x", object(), Path("nowhere"), 1j, range(3)),
    *(lambda: 1, [None], [[1]], [[]], [10**400], Exception("x"), NotImplemented, ..., type, memoryview(b"x")),
]
"""Values of every type that an argument may be given by mistake."""


def _inside(word: str) -> str:
    """A word that names no file outside the case's folder, if it is a path: these tests run as root in places."""
    return word.replace("../", "").lstrip("/") if "/" in word and word not in ODD else word


short_texts = st.text(max_size=12).map(_inside)
numbers = st.one_of(st.integers(-3, 40), st.integers(), st.floats())
words = st.one_of(st.sampled_from(ODD), short_texts, st.integers().map(str), st.floats().map(repr))
scalars = st.one_of(st.sampled_from([*VALUES, *ODD]), numbers, words, st.booleans(), st.none(), st.binary(max_size=6))
values = st.one_of(
    scalars,
    scalars,
    st.lists(scalars, max_size=4),
    st.tuples(numbers, numbers),
    st.dictionaries(short_texts, numbers, max_size=3),
    st.lists(st.floats(width=32), min_size=1, max_size=9).map(np.array),
    st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=9).map(np.array),
)
"""Any Python value, as an argument."""

json_scalars = st.one_of(
    st.none(), st.booleans(), numbers, words, st.sampled_from(["9" * 30, "../x.png", "/etc/passwd", "a\0b", "x" * 3000])
)
json_values = st.one_of(
    json_scalars,
    json_scalars,
    st.lists(json_scalars, max_size=3),
    st.dictionaries(words, json_scalars, max_size=3),
    st.integers(2, 300).map(lambda depth: json.loads("[" * depth + "]" * depth)),
)
"""Any value that JSON holds, NaN among them."""


def _places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    if isinstance(document, dict | list):
        for key, inner in document.items() if isinstance(document, dict) else enumerate(document):
            found += _places(inner, (*at, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document in which one to three values, fields or names are replaced, left out, doubled or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        place = places[draw(st.integers(0, len(places) - 1))]
        if not place:
            if isinstance(document, dict):
                document[draw(words)] = draw(json_values)
            continue
        holder = document
        for key in place[:-1]:
            holder = holder[key]
        key, what = place[-1], draw(st.sampled_from(["value", "value", "value", "leave out", "rename", "double"]))
        if what == "value":
            holder[key] = draw(json_values)
        elif what == "leave out":
            del holder[key]
        elif what == "rename" and isinstance(holder, dict):
            holder[draw(words)] = holder.pop(key)
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
    return document


def as_json(document: Any) -> bytes:
    """As JSON with NaN, infinity and lone surrogates, which careless writers write."""
    return json.dumps(document).encode()


_TOKENS = st.one_of(
    st.sampled_from([b"\0", b"\xff", b'"', b"{" * 100, b"[" * 2000, b"NaN", b"1e999", b"9" * 5000, b"\xed\xa0\x80"]),
    st.sampled_from([b"\n", b",", b";", b"\r", b"\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PK\x03\x04", b"--"]),
    st.binary(max_size=8),
    st.text(max_size=6).map(str.encode),
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, least: int = 1) -> bytes:
    """Bytes of which some are flipped, left out, doubled or replaced, or whose end is missing."""
    raw = bytearray(content)
    for _ in range(draw(st.integers(least, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        what = draw(st.sampled_from(["flip", "flip", "token", "token", "leave out", "double", "end"]))
        if what == "flip" and raw:
            raw[at] ^= draw(st.integers(1, 255))
        elif what == "leave out":
            del raw[at : at + draw(st.integers(1, 40))]
        elif what == "double":
            raw[at:at] = raw[at : at + draw(st.integers(1, 40))]
        elif what == "token":
            raw[at : at + draw(st.integers(0, 9))] = draw(_TOKENS)
        else:
            del raw[at:]
    return bytes(raw)


def told_apart(value: Any) -> bytes:
    """What tells one drawn input from another, for counting how many were different."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray):
        held = repr(value).encode() if value.dtype.hasobject else value.tobytes()
        return repr((value.dtype, value.shape)).encode() + held
    if isinstance(value, dict):
        return b"{" + b",".join(told_apart(key) + b":" + told_apart(inner) for key, inner in value.items()) + b"}"
    if isinstance(value, list | tuple):
        return type(value).__name__.encode() + b"[" + b",".join(map(told_apart, value)) + b"]"
    return repr(value).encode("utf-8", "surrogatepass") if not isinstance(value, int) else hex(value).encode()
