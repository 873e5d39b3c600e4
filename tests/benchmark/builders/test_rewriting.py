"""Rewording through an endpoint that also misbehaves: a stub on the loopback answers as each test wants."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracescribe.benchmark.builders import build_mednega, mednega_items
from tracescribe.benchmark.builders.rewriting import ATTEMPTS, KEY_VARIABLE, Rewriter, Wordings
from tracescribe.benchmark.readers.chexpert import CONDITIONS
from tracescribe.benchmark.records import Fact, FactsRecord, McqRecord
from tracescribe.errors import DataFormatError, OptionError, OutputError, RewriterError

STATE = {"cardiomegaly": 1, "pneumothorax": 0}
TEMPLATE = Wordings(
    "The radiograph shows cardiomegaly, with no pneumothorax.",
    "The radiograph shows cardiomegaly, with preserved peripheral lung markings.",
)
GOOD = Wordings(
    "Cardiomegaly is present, while there is no pneumothorax.",
    "One sees cardiomegaly and preserved peripheral lung markings.",
)


def chat(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def good(prompt: str) -> bytes:
    return chat(GOOD.affirmative if "no negation" in prompt else GOOD.negated)


class Stub:
    """An endpoint: ``answer(prompt)`` gives the body, or (status, headers, body)."""

    def __init__(self) -> None:
        self.answer: Callable[[str], Any] = good
        self.prompts: list[str] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][0]["content"]
                stub.prompts.append(prompt)
                stub.seen.append((self.path, dict(self.headers), body))
                found = stub.answer(prompt)
                status, headers, raw = found if isinstance(found, tuple) else (200, {}, found)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [raw] if isinstance(raw, bytes) else raw:
                    self.wfile.write(part)
                    self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gave up
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    found = Stub()
    yield found
    found.server.shutdown()
    found.server.server_close()


def rewriter(stub: Stub, folder: Path, **options: Any) -> Rewriter:
    return Rewriter(stub.url, "m", folder / "c.sqlite", **{"rate": 1e5, "sleep": lambda _: None, **options})


def test_a_rewording_of_the_same_facts_is_taken(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    with rewriter(stub, tmp_path) as reword:
        assert reword(TEMPLATE, STATE) == GOOD
        assert reword.counts["reworded"] == 1
        assert "sesame" not in reword.announcement
    path, headers, body = stub.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sesame"
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert TEMPLATE.negated in stub.prompts[0]
    assert b"sesame" not in (tmp_path / "c.sqlite").read_bytes()


def test_replies_are_kept_on_disk_by_model_and_prompt(stub: Stub, tmp_path: Path) -> None:
    with rewriter(stub, tmp_path) as reword:
        reword(TEMPLATE, STATE)
    assert len(stub.prompts) == 2
    with rewriter(stub, tmp_path) as reword:
        assert reword(TEMPLATE, STATE) == GOOD
    assert len(stub.prompts) == 2
    with Rewriter(stub.url, "another", tmp_path / "c.sqlite", rate=1e5) as reword:
        reword(TEMPLATE, STATE)
    assert len(stub.prompts) == 4


@pytest.mark.parametrize(
    "reply",
    [
        "Cardiomegaly and pneumothorax are present.",
        "There is no cardiomegaly, but a pneumothorax.",
        "There is neither cardiomegaly nor pneumothorax.",
        "Cardiomegaly is present.",
        "Severe cardiomegaly is present, but no pneumothorax.",
        "Cardiomegaly is present, but no left pneumothorax.",
        "Cardiomegaly, but no pneumothorax and no edema.",
        "Cardiomegaly is possible, but no pneumothorax.",
        "Cardiomegaly, but no pneumothorax.\nSure! Here is another one.",
        "I am sorry, I cannot do that.",
        "心脏扩大",
    ],
)
def test_changed_facts_keep_the_template_and_are_counted(stub: Stub, tmp_path: Path, reply: str) -> None:
    stub.answer = lambda prompt: good(prompt) if "no negation" in prompt else chat(reply)
    with rewriter(stub, tmp_path) as reword:
        assert reword(TEMPLATE, STATE) == TEMPLATE
        assert reword.counts["kept their template: the facts changed"] == 1
        reword(TEMPLATE, STATE)
    assert len(stub.prompts) == 1  # a wrong reply is not asked for again


def test_one_wording_alone_is_not_taken(stub: Stub, tmp_path: Path) -> None:
    stub.answer = lambda prompt: chat("There is no pneumothorax.") if "no negation" in prompt else good(prompt)
    with rewriter(stub, tmp_path) as reword:
        assert reword(TEMPLATE, STATE) == TEMPLATE


BAD_ONCE = {
    "500": (500, {}, b"oops"),
    "429": (429, {"Retry-After": "3"}, b""),
    "junk": b"<html>",
    "half": b'{"choices": [{"mess',
    "no choices": b"[]",
    "null": chat(None),
    "empty": chat("  "),
    "number": chat(7),
    "half a character": b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    "deep": b"[" * 100_000,
    "huge": b" " * (2**20 + 1),
    "packed": (200, {"Content-Encoding": "gzip"}, gzip.compress(chat(GOOD.negated))),
    "broken packing": (200, {"Content-Encoding": "gzip"}, b"x"),
    "not UTF-8": b'{"choices": "\xff"}',
}


@pytest.mark.parametrize("bad", BAD_ONCE.values(), ids=list(BAD_ONCE))
def test_a_bad_reply_is_asked_for_again(stub: Stub, tmp_path: Path, bad: Any) -> None:
    stub.answer = lambda prompt: bad if len(stub.prompts) == 1 else good(prompt)
    with rewriter(stub, tmp_path) as reword:
        assert reword(TEMPLATE, STATE) == GOOD
    assert len(stub.prompts) == 3


def test_waits_are_bounded_and_follow_the_endpoint(stub: Stub, tmp_path: Path) -> None:
    waits: list[float] = []
    headers = iter(
        [{"Retry-After": "3"}, {"Retry-After": "86400"}, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}]
    )
    stub.answer = lambda _: (503, next(headers), b"")
    with rewriter(stub, tmp_path, sleep=waits.append) as reword:
        assert reword(TEMPLATE, STATE) == TEMPLATE
        assert reword.counts["kept their template: no reply"] == 1
    assert [wait for wait in waits if wait > 0.01] == [3, 20, 2]  # the last: 0.5 s doubled twice
    assert len(stub.prompts) == ATTEMPTS


def test_a_slow_endpoint_is_given_up(stub: Stub, tmp_path: Path) -> None:
    def drip(_: str) -> Iterator[bytes]:
        for _ in range(100):
            time.sleep(0.02)
            yield b" "

    stub.answer = lambda prompt: (200, {}, drip(prompt))
    start = time.monotonic()
    with rewriter(stub, tmp_path, timeout=0.05) as reword:
        assert reword(TEMPLATE, STATE) == TEMPLATE
    assert time.monotonic() - start < 2  # 4 attempts of 0.05 s each, instead of 4 x 2 s


def test_an_endpoint_that_is_down_stops_the_build_and_keeps_what_it_said(stub: Stub, tmp_path: Path) -> None:
    with rewriter(stub, tmp_path) as reword:
        reword(TEMPLATE, STATE)
        stub.answer = lambda _: (500, {}, b"")
        others = [Wordings(f"{TEMPLATE.negated} {i}", TEMPLATE.affirmative) for i in range(3)]
        assert [reword(other, STATE) for other in others[:2]] == others[:2]
        with pytest.raises(RewriterError, match=r"status 500.*c\.sqlite'.*go on"):
            reword(others[2], STATE)
        asked = len(stub.prompts)
        assert reword(TEMPLATE, STATE) == GOOD
        assert len(stub.prompts) == asked


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_refusal_is_not_repeated(stub: Stub, tmp_path: Path, status: int) -> None:
    stub.answer = lambda _: (status, {"Location": "http://127.0.0.1:9/"}, b"")
    with rewriter(stub, tmp_path) as reword, pytest.raises(RewriterError, match=f"refuses with status {status}"):
        reword(TEMPLATE, STATE)
    assert len(stub.prompts) == 1


def test_the_rate_is_kept(stub: Stub, tmp_path: Path) -> None:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with rewriter(stub, tmp_path, rate=2.0, sleep=sleep, clock=lambda: now[0]) as reword:
        for number in range(3):
            reword(Wordings(f"{TEMPLATE.negated} {number}", f"{TEMPLATE.affirmative} {number}"), STATE)
    assert len(stub.prompts) == 6
    assert now[0] == pytest.approx(100 + 5 / 2)  # five pauses between six requests


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://user:pw@host/v1", "http://[::1"]
)
def test_what_is_no_address_is_refused_before_anything_is_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is no address") as refusal:
        Rewriter(url, "m", tmp_path / "c.sqlite")
    assert "pw" not in str(refusal.value).replace(repr(url), "")
    assert not list(tmp_path.iterdir())


def test_a_cache_that_is_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("my notes, which are long enough to be no header of a database" * 20)
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(DataFormatError, match="cannot be used"):
        Rewriter("http://127.0.0.1:9", "m", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before
    for name in ("a\0b", "a\ud800b"):  # which no file can have
        with pytest.raises(DataFormatError, match="cannot be used"):
            Rewriter("http://127.0.0.1:9", "m", tmp_path / name)


@pytest.mark.parametrize("key", ["a b", "schlüssel", "a\nb"])
def test_a_key_that_is_none_is_refused_without_being_quoted(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(OptionError, match=KEY_VARIABLE) as refusal:
        Rewriter("http://127.0.0.1:9", "m", tmp_path / "c")
    assert key not in str(refusal.value)


def test_a_cache_that_cannot_be_written_any_more_is_a_sentence(stub: Stub, tmp_path: Path) -> None:
    with rewriter(stub, tmp_path) as reword:
        with sqlite3.connect(tmp_path / "c.sqlite") as other:
            other.execute("DROP TABLE replies")
        other.close()
        with pytest.raises(OutputError, match=r"cache '.*c\.sqlite' cannot be used: no such table"):
            reword(TEMPLATE, STATE)


def test_a_full_stop_and_a_capital_are_put_where_they_lack(stub: Stub, tmp_path: Path) -> None:
    def bare(prompt: str) -> bytes:
        text = json.loads(good(prompt))["choices"][0]["message"]["content"]
        return chat(f'  "{text[0].lower()}{text[1:-1]}"\n')

    stub.answer = bare
    with rewriter(stub, tmp_path) as reword:
        assert reword(TEMPLATE, STATE) == GOOD


def rows(folder: Path, n: int = 300) -> Path:
    rng = np.random.default_rng(0)
    lines = ["subject_id,study_id," + ",".join(CONDITIONS)]
    for study in range(n):
        values = rng.choice(["", "1.0", "0.0"], p=[0.2, 0.35, 0.45], size=len(CONDITIONS))
        lines.append(f"{99_000_000 + study},{77_000_000 + study},{','.join(values)}")
    path = folder / "mimic-cxr-2.0.0-chexpert.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


VERB = re.compile(r"^.*?(?= (shows|demonstrates|reveals|depicts|sees) )")


def echo(prompt: str) -> bytes:
    """Another subject for the same verb and list."""
    return chat(VERB.sub("overall, the chest examination", prompt.rpartition("\n")[2]))


def test_a_stopped_build_goes_on_from_the_cache_and_gives_the_same_bytes(stub: Stub, tmp_path: Path) -> None:
    labels = rows(tmp_path)
    stub.answer = echo
    with rewriter(stub, tmp_path) as reword:
        build_mednega(labels, tmp_path / "once", limit=24, rewriter=reword)
        assert reword.counts["reworded"] == 24  # six blocks of four statements
    asked = len(stub.prompts)
    stub.prompts.clear()
    other = tmp_path / "other"
    other.mkdir()
    stub.answer = lambda prompt: echo(prompt) if len(stub.prompts) < 15 else (404, {}, b"")
    with rewriter(stub, other) as reword, pytest.raises(RewriterError):
        build_mednega(labels, tmp_path / "again", limit=24, rewriter=reword)
    assert not (tmp_path / "again").exists()
    stub.answer = echo
    with rewriter(stub, other) as reword:
        build_mednega(labels, tmp_path / "again", limit=24, rewriter=reword)
    assert len(stub.prompts) == asked + 1  # the one that was refused
    assert (tmp_path / "again" / "mcq.jsonl").read_bytes() == (tmp_path / "once" / "mcq.jsonl").read_bytes()
    sheet = (tmp_path / "once" / "DATASHEET.md").read_text()
    assert "reworded by the model m" in sheet
    sent = " ".join(stub.prompts)
    assert "9900" not in sent
    assert "7700" not in sent
    assert str(tmp_path) not in sent


def test_items_of_a_block_share_their_texts_however_the_endpoint_answers(stub: Stub, tmp_path: Path) -> None:
    """Text alone stays at chance: of the four items of a block each text is the right one exactly once."""
    rng = np.random.default_rng(0)
    films = [
        FactsRecord(
            id=str(n),
            group=str(n),
            image=None,
            facts={name: Fact(state="present" if rng.random() < 0.45 else "absent") for name in CONDITIONS},
        )
        for n in range(300)
    ]
    stub.answer = lambda prompt: echo(prompt) if len(prompt) % 2 else chat("nonsense")
    with rewriter(stub, tmp_path) as reword:
        found = [item for _, item in zip(range(40), mednega_items(films, reword=reword), strict=False)]
        assert min(reword.counts["reworded"], reword.counts["kept their template: the facts changed"]) > 0
    items = [McqRecord(**item) for item in found]
    for start in range(0, 40, 4):
        block = items[start : start + 4]
        assert len({tuple(sorted(item.negated)) for item in block}) == 1
        assert {item.negated[item.label] for item in block} == set(block[0].negated)
