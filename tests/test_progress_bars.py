"""Bars are shown where somebody looks: a terminal, or a notebook's cell; never in a file, a pipe or captured output."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from typing import Any

import pytest

from tracescribe import progress
from tracescribe.progress import bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stream(io.TextIOBase):
    """What a kernel has in place of stderr."""


class Handle:
    def __init__(self, states: list[str]) -> None:
        self.states = states

    def update(self, shown: Any) -> None:
        self.states.append(shown._repr_html_())


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A notebook's kernel; the states of what it displays."""
    pytest.importorskip("IPython")
    states: list[str] = []

    def display(shown: Any, display_id: bool) -> Handle:
        assert display_id
        states.append(shown._repr_html_())
        return Handle(states)

    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    return states


def work(wanted: bool = True, *, keep: bool = True, stderr: Any = None) -> None:
    with contextlib.redirect_stderr(stderr or sys.stderr), bars(wanted, keep=keep) as drawn:
        bar = drawn.add("tracing <b>", 3)
        for done in (1, 2, 3):
            bar.to(done, note="a & b")


@pytest.mark.parametrize("imported", [False, True], ids=["no IPython", "IPython imported"])
@pytest.mark.parametrize("forced", [False, True], ids=["", "FORCE_COLOR"])
def test_redirected_output_has_no_bar(monkeypatch: pytest.MonkeyPatch, imported: bool, forced: bool) -> None:
    if imported:
        import IPython  # noqa: F401
    if forced:  # rich takes a file for a terminal then
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        work()
    assert err.getvalue() == out.getvalue() == ""


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.redirect_stderr(Terminal()) as err:
        work()
    assert "tracing <b>" in err.getvalue() and "3/3 a & b" in err.getvalue()
    with contextlib.redirect_stderr(Terminal()) as err:
        work(wanted=False)
    assert err.getvalue() == ""


def test_without_stderr_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    work()


def test_a_notebook_has_one_bar_that_is_changed_in_place(kernel: list[str]) -> None:
    work(stderr=Stream())
    assert 'value="1" max="3"' in kernel[0] and 'value="3" max="3"' in kernel[-1]
    assert all("tracing &lt;b&gt;" in state and "a &amp; b" in state for state in kernel)
    kernel.clear()
    work(keep=False, stderr=Stream())
    assert 'value="3"' in kernel[-2] and kernel[-1] == ""
    kernel.clear()
    work(wanted=False, stderr=Stream())
    assert kernel == []
    with (
        pytest.raises(KeyboardInterrupt),
        contextlib.redirect_stderr(Stream()),  # type: ignore[type-var]
        bars(True, keep=False) as drawn,
    ):
        drawn.add("stopped", 2).to(1)
        raise KeyboardInterrupt
    assert kernel[-1] == "" and "stopped" in kernel[0]


def test_a_notebooks_bar_of_unknown_length_has_no_share(kernel: list[str]) -> None:
    with contextlib.redirect_stderr(Stream()), bars(True) as drawn:  # type: ignore[type-var]
        drawn.add("building", None).to(7)
    assert "<progress style=" in kernel[-1] and "> 7 ·" in kernel[-1] and "None" not in kernel[-1]


def test_what_is_quick_has_no_bar_in_a_notebook(kernel: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 60.0)
    work(stderr=Stream())
    assert kernel == []


def test_a_notebooks_redirected_output_has_no_bar(kernel: list[str]) -> None:
    err = io.StringIO()
    work(stderr=err)  # as %%capture does it
    assert kernel == [] and err.getvalue() == ""


CODE = """
import logging, sys, tracescribe as ts, tracescribe.progress
from tracescribe.benchmark.phantom import build_phantom

tracescribe.progress.DELAY = tracescribe.progress.EVERY = 0.0
folder = build_phantom("data", 24, seed=0)
model = ts.load("phantom")
pairs = ts.read_pairs(folder / "pairs.jsonl")[:8]
quick = {"steps": 2, "batch_size": 4}
config = ts.finetune.TrainConfig(captions=folder / "captions.jsonl", claims=folder / "claims.jsonl", **quick)
one = {"arms": {"front": {"by": "front", "k": 2}}, "rates": (1e-3,), "seeds": 1, "tuning_seeds": 1}
study = ts.finetune.StudyConfig(data=folder, n_pairs=8, interpolation=(0.5,), train=quick, **one)
"""


@pytest.mark.slow
def test_trace_finetune_and_study_show_theirs_in_a_kernel(tmp_path: Any) -> None:
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    kernel, client = manager.start_new_kernel(cwd=str(tmp_path), startup_timeout=180)

    def run(code: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        reply = client.execute_interactive(code, output_hook=messages.append, timeout=600)
        assert reply["content"]["status"] == "ok", reply["content"]
        return [
            {"kind": each["msg_type"], "id": each["content"].get("transient", {}).get("display_id"), **each["content"]}
            for each in messages
            if each["msg_type"] in ("display_data", "update_display_data", "stream")
        ]

    try:
        run(CODE)
        for code, name, keep in (
            ("trace = ts.trace(model, pairs)", "tracing text pairs", False),
            ("print('before'); tuned = ts.finetune.train(config, model); print('after')", "fine-tuning", True),
            ("_ = ts.finetune.run_study(study, 'out')", "study", True),
        ):
            said = run(code)
            shown = [one for one in said if one["kind"] != "stream"]
            assert shown[0]["kind"] == "display_data" and len({one["id"] for one in shown}) == 1
            assert {one["kind"] for one in shown[1:]} == {"update_display_data"}
            assert any(name in one["data"]["text/html"] for one in shown)
            assert (name in shown[-1]["data"]["text/html"]) is keep
            assert "".join(one["text"] for one in said if one["kind"] == "stream" and one["name"] == "stdout") in (
                "",
                "before\nafter\n",
            )
            assert [one for one in run(f"%%capture\n{code}") if one["kind"] != "stream"] == []
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
