"""Statements reworded by an OpenAI-compatible endpoint: cached on disk, rate-limited, checked for their facts."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ...arguments import explains_arguments
from ...errors import DataFormatError, OptionError, OutputError, RewriterError
from ...io.quoting import shown, shown_path
from .lexicon import TERMS
from .wording import same_facts

if TYPE_CHECKING:
    import httpx

__all__ = ["KEY_VARIABLE", "Rewriter", "Wordings"]

KEY_VARIABLE = "TRACESCRIBE_REWRITER_KEY"
"""Environment variable of the endpoint's key, which is sent as a bearer token and written nowhere."""
ATTEMPTS = 4  # per statement
MOST_FAILURES = 3  # statements in a row for which the endpoint gave no usable reply: it is down
MAX_REPLY = 2**20  # bytes
LONGEST_WAIT = 20.0  # seconds between attempts
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


class Wordings(NamedTuple):
    """One statement with negation and without."""

    negated: str
    affirmative: str


@explains_arguments
class Rewriter:
    """Rewords statements; those whose rewording does not state exactly the same facts keep their template.

    Only sentences that were made from labels are sent: no name or number of a patient or study, no path, no image, no
    text of a report. Each reply is kept in ``cache`` by a hash of model and prompt, so that a stopped build goes on
    without asking again, and so that the same build gives the same bytes.

    Args:
        url: the base of the endpoint, such as "http://localhost:8000/v1"; "/chat/completions" is added.
        model: the model's name there.
        cache: an SQLite file, made if missing.
        rate: requests per second at most.
        timeout: seconds for one reply, from the request to its last byte.
        sleep, clock: for tests.

    Raises:
        OptionError: the address is no http(s) address, the key is none, or rate or timeout is not above 0.
        DataFormatError: the cache is something else than such a file.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: str | os.PathLike[str],
        *,
        rate: float = 5.0,
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._key = _checked(url), _key()
        self.model = model
        if not (0 < rate <= 1e6 and 0 < timeout <= 3600):
            raise OptionError(f"the rewriter's rate ({rate:g} per second) and timeout ({timeout:g} s) must be above 0")
        self.cache = Path(cache)
        self._pause, self._timeout, self._sleep, self._clock = 1 / rate, timeout, sleep, clock
        self._next, self._failures = 0.0, 0
        self._open_cache()
        self._client: httpx.Client | None = None
        self.counts = {"reworded": 0, "kept their template: the facts changed": 0, "kept their template: no reply": 0}

    @property
    def announcement(self) -> str:
        """What is sent, and where to; to be said before the start."""
        host = urlsplit(self._url).hostname
        return (
            f"--rewriter sends statements made from labels (such as 'The radiograph shows no edema.') to {host}, model "
            f"{self.model}; no patient or study number, no path, no image and no report text. Replies are kept in "
            f"{shown_path(self.cache)}."
        )

    def __call__(self, template: Wordings, state: Mapping[str, int]) -> Wordings:
        """Both wordings reworded, or both as they are: one alone would differ from the other in more than polarity.

        Raises:
            RewriterError: the endpoint refuses, or does not answer any more.
        """
        found = []
        for text, negated in ((template.negated, True), (template.affirmative, False)):
            reply = self._reply(_prompt(text, state, negated=negated))
            if reply is None:
                self.counts["kept their template: no reply"] += 1
                return template
            sentence = reply.strip().strip('"“”').strip()
            if not same_facts(sentence, state, negated=negated):
                self.counts["kept their template: the facts changed"] += 1
                return template
            found.append(sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith(".") else "."))
        self.counts["reworded"] += 1
        return Wordings(*found)

    def close(self) -> None:
        """Close the connections; what was answered stays in the cache."""
        if self._client is not None:
            self._client.close()
        self._cached.close()

    def __enter__(self) -> Rewriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_cache(self) -> None:
        try:
            self._cached = sqlite3.connect(self.cache, isolation_level=None, timeout=30)  # each reply is kept at once
            self._cached.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            self._cached.execute("SELECT key, reply FROM replies LIMIT 1")
        except (sqlite3.Error, ValueError) as error:  # a NUL, a lone surrogate
            raise DataFormatError(
                f"the rewriter's cache {shown_path(self.cache)} cannot be used ({error}); give another file"
            ) from None

    def _reply(self, prompt: str) -> str | None:
        """The reply to a prompt, from the cache or the endpoint; None where it gives no usable one."""
        key = hashlib.sha256(json.dumps([self.model, prompt]).encode("utf-8", "surrogatepass")).hexdigest()
        row = self._query("SELECT reply FROM replies WHERE key = ?", key)
        if row is not None:
            return str(row[0])
        reply, why = self._ask(prompt)
        if reply is None:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise RewriterError(
                    f"the rewriter at {shown(self._url)} gives no usable reply ({why}); what it answered before is "
                    f"kept in {shown_path(self.cache)}: run the same command again to go on"
                )
            return None
        self._failures = 0
        self._query("INSERT OR REPLACE INTO replies VALUES (?, ?)", key, reply)
        return reply

    def _query(self, statement: str, *values: str) -> Any:
        """The first row of a statement's result, None where there is none."""
        try:
            return self._cached.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise OutputError(f"the rewriter's cache {shown_path(self.cache)} cannot be used: {error}") from error

    def _ask(self, prompt: str) -> tuple[str | None, str]:
        """One prompt, tried `ATTEMPTS` times; the reply, or None and why."""
        import httpx

        why = ""
        for attempt in range(ATTEMPTS):
            wait = self._next - self._clock()
            if wait > 0:
                self._sleep(wait)
            self._next = self._clock() + self._pause
            try:
                return self._post(prompt), ""
            except _Retry as problem:
                why, after = str(problem), problem.after
            except (httpx.RequestError, httpx.InvalidURL, UnicodeError) as error:
                why, after = f"{type(error).__name__}: {str(error)[:120]}", None
            if attempt + 1 < ATTEMPTS:
                self._sleep(min(LONGEST_WAIT, 0.5 * 2**attempt if after is None else after))
        return None, why

    def _post(self, prompt: str) -> str:
        import httpx

        if self._client is None:
            headers = {"Accept-Encoding": "identity"}  # a packed reply may be of any size
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._client = httpx.Client(timeout=self._timeout, headers=headers, follow_redirects=False)
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        end = self._clock() + self._timeout
        raw = b""
        with self._client.stream("POST", self._url, json=body) as response:
            if response.status_code in _RETRIED:
                raise _Retry(f"status {response.status_code}", _seconds(response.headers.get("retry-after")))
            if response.status_code != 200:
                raise RewriterError(
                    f"the rewriter at {shown(self._url)} refuses with status {response.status_code}: check the "
                    f"address, the model's name {shown(self.model)} and the key in {KEY_VARIABLE}"
                )
            for part in response.iter_raw():
                raw += part
                if len(raw) > MAX_REPLY:
                    raise _Retry(f"a reply of more than {MAX_REPLY:,} bytes")
                if self._clock() > end:
                    raise _Retry(f"a reply that takes longer than {self._timeout:g} s")
        return _content(raw)


class _Retry(Exception):
    """A reply that is worth asking again for, and the seconds after which the endpoint wants it."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


def _content(raw: bytes) -> str:
    try:
        content: Any = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise _Retry("a reply that is no chat completion") from None
    if not isinstance(content, str) or not content.strip():
        raise _Retry("an empty reply")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise _Retry("a reply that is no text") from None
    return content


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, min(LONGEST_WAIT, float(text)))
    except ValueError:  # a date
        return None


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:  # an error of the protocol would quote it
        raise OptionError(f"the key in {KEY_VARIABLE} has characters that no key has: a space, a line end, an accent")
    return key


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise OptionError(
            f"the rewriter {shown(url)} is no address such as http://localhost:8000/v1; a key is given in the "
            f"environment variable {KEY_VARIABLE}"
        )
    return f"{url.rstrip('/')}/chat/completions"


def _prompt(text: str, state: Mapping[str, int], *, negated: bool) -> str:
    names = ", ".join(f"{TERMS[name].noun} ({'present' if present else 'absent'})" for name, present in state.items())
    if negated:
        how = "Give every absent finding a negation of its own, and keep the findings' names."
    else:
        kept = ", ".join(repr(TERMS[name].healthy) for name, present in state.items() if not present)
        how = f"Use no negation at all. Keep the findings' names, and keep word for word: {kept}."
    return (
        f"Reword this sentence about a chest radiograph. State exactly these findings: {names}. {how} Add nothing: no "
        f"severity, no side, no doubt, no other finding. Answer with one sentence only.\n\n{text}"
    )
