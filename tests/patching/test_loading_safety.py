"""Loading runs nobody's code, waits for nothing, and says what is wrong in a sentence; also from many threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

import tracescribe as ts
from tracescribe.errors import TraceWarning, UnknownModelError
from tracescribe.patching.adapters import registry
from tracescribe.patching.loading import names
from tracescribe.patching.loading.archives import archive_state
from tracescribe.patching.loading.checkpoints import read_checkpoint
from tracescribe.patching.loading.hub import hub_or_cache

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 64, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import factory

    for name in ("ViT-B-32", "ViT-B-32-quickgelu", "ViT-L-14", "ViT-L-14-quickgelu"):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, SMALL | {"quick_gelu": name.endswith("quickgelu")})


class Harmless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 2).T)
        self.narrow = nn.Linear(2, 3).half()
        self.register_buffer("count", torch.arange(4))
        self.norm = nn.BatchNorm1d(3)
        self.no_weight = torch.ones(5)
        self.many = nn.ModuleList([nn.Linear(1, 1)])
        self.numbers = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(x.half()) + self.no_weight[0]


class Attack(nn.Module):
    """Restores itself by writing a file: torch.jit.load runs this."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.w = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, torch.Tensor, bool]:
        return self.place, self.w, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor, bool]) -> None:
        self.place = state[0]
        self.w = state[1]
        self.training = state[2]
        torch.save(self.w, self.place)


def attack(path: Path, mark: Path) -> None:
    torch.jit.script(Attack(str(mark))).save(str(path))
    assert not mark.exists()


def test_a_torchscript_archive_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    torch.jit.script(Harmless()).save(str(tmp_path / "a.pt"))
    expected = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    found = archive_state(tmp_path / "a.pt")
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype
        assert found[name].stride() == value.stride()


def test_an_archive_never_runs_on_any_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mark = tmp_path / "written by the archive"
    folder = tmp_path / "folder"
    folder.mkdir()
    attack(folder / "open_clip_pytorch_model.bin", mark)
    attack(folder / "pytorch_model.bin", mark)
    (folder / "open_clip_config.json").write_text('{"model_cfg": %s}' % str(SMALL).replace("'", '"'))  # noqa: UP031
    (folder / "config.json").write_text('{"model_type": "clip"}')
    file = folder / "pytorch_model.bin"
    roads: list[tuple[str, Any]] = [
        ("chexzero", file),
        ("bmc-clip", file),
        ("open_clip:ViT-B-32", file),
        (f"open_clip:local-dir:{folder}", None),
        (f"hf:{folder}", None),
        ("biomedclip", folder),
        ("pubmedclip", folder),
    ]
    for name, pretrained, trusted in [(*road, trusted) for road in roads for trusted in (False, True)]:
        with pytest.raises(UnknownModelError) as caught:  # who trusts a hub's code trusts no program in a weights' file
            ts.load(name, pretrained=pretrained, trust_remote_code=trusted)
        assert not mark.exists(), name
        if pretrained == file:
            assert "TorchScript program" in str(caught.value) and "torch.save" in str(caught.value)
    read = torch.jit.load(str(file))  # the file is a real attack
    assert mark.exists() and read is not None


def test_a_pickle_that_calls_a_function_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"w": torch.ones(1), "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UnknownModelError, match="holds more than weights"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", bytes(100), b"\x80\x02}q\x00."])
def test_an_empty_or_broken_file_is_a_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnknownModelError, match=r"the checkpoint '.*w\.") as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert content or "it is empty" in str(caught.value)


@pytest.mark.parametrize("name", ["chexzero", "medclip", "gloria", "open_clip:ViT-B-32"])
def test_pipes_devices_folders_and_impossible_names_are_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    began = time.monotonic()
    for path in (tmp_path / "pipe", tmp_path / "circle", Path("/dev/zero"), Path("x" * 300), Path("a\0b"), tmp_path):
        with pytest.raises(UnknownModelError) as caught:
            ts.load(name, pretrained=path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module._orig_mod.module.{name}",
        lambda name: name.replace("resblocks.0.", "resblocks.0._orig_mod."),
    ],
)
def test_names_of_wrapped_models_are_understood(rename: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = open_clip.CLIP(**SMALL).eval()
    state = {rename(name): value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "quick_gelu": False}, tmp_path / "w.pt")
    assert set(read_checkpoint(tmp_path / "w.pt").state) == set(source.state_dict())


def test_averaged_weights_are_understood(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    torch.save(averaged.state_dict(), tmp_path / "ema.pt")
    assert set(read_checkpoint(tmp_path / "ema.pt").state) == {"weight", "bias"}
    torch.save({"module.a": torch.ones(1), "other.b": torch.ones(1)}, tmp_path / "named.pt")
    assert set(read_checkpoint(tmp_path / "named.pt").state) == {"module.a", "other.b"}


def plugin(name: str, value: str, group: str = registry.GROUP) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=group)


def test_a_broken_plugin_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADAPTERS", {})
    monkeypatch.setattr(registry, "_loaded", False)
    broken = [
        plugin("absent", "no_such_package.module:ADAPTER"),
        plugin("no adapter", "os:sep"),
        plugin("taken", "tracescribe.patching.adapters.clip_text:ADAPTER"),
        plugin("open_clip again", "tracescribe.patching.adapters.open_clip:ADAPTER"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: broken)
    with pytest.warns(TraceWarning) as said:
        model = ts.load("phantom")
    assert len(said) == 1 and model.text.n_layers == 8
    for entry in broken:
        assert repr(entry.name) in str(said[0].message)
    assert "registered already" in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ts.load("phantom")  # and it is said once


def test_a_broken_or_doubled_model_name_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [plugin("gone", "no_such_package:load", names.GROUP)]
    monkeypatch.setattr(names, "entry_points", lambda group: entries)
    with pytest.raises(UnknownModelError, match=r"model 'gone' \(no_such_package:load\) cannot be loaded: No mod"):
        ts.load("gone")
    entries.append(plugin("gone", "another:load", names.GROUP))
    with pytest.raises(UnknownModelError, match="two installed packages have a model named 'gone'"):
        ts.load("gone")
    for name in (None, 7, b"phantom"):
        with pytest.raises(UnknownModelError, match="a model's name is a text"):
            ts.load(name)  # type: ignore[arg-type]


def test_eight_threads_load_at_once_in_a_fresh_process() -> None:
    program = """
    import threading
    from concurrent.futures import ThreadPoolExecutor
    import torch
    import tracescribe as ts
    together = threading.Barrier(8)
    def load(_):
        together.wait()
        return ts.load("phantom").encode_texts(["There is no effusion."])
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(load, range(8)))
    assert all(torch.equal(row, rows[0]) for row in rows)
    print("all")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr


@pytest.mark.parametrize("name", ["hf:nobody/nothing", "open_clip:hf-hub:nobody/nothing", "biomedclip"])
def test_a_hub_that_cannot_be_reached_is_one_sentence_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    connect, connections = socket.create_connection, []

    def counted(address: Any, *arguments: Any, **options: Any) -> socket.socket:
        connections.append(address)
        return connect(address, *arguments, **options)

    monkeypatch.setattr(socket, "create_connection", counted)
    with pytest.raises(UnknownModelError, match=r"127\.0\.0\.1:9 cannot be reached .*, and it is not among the models"):
        ts.load(name)
    assert connections == [("127.0.0.1", 9)]  # asked once, and never again
    assert constants.HF_HUB_OFFLINE is False
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("road", ["hf:", "open_clip:local-dir:", "pubmedclip", "biomedclip"])
@pytest.mark.parametrize("broken", ["pipe", "device", "huge weights", "huge text"])
def test_a_folder_that_a_library_would_read_without_a_limit(road: str, broken: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "open_clip_config.json").write_text("{}")
    if broken == "pipe":
        os.mkfifo(tmp_path / "tokenizer.json")
    elif broken == "device":
        (tmp_path / "tokenizer.json").symlink_to("/dev/zero")
    else:
        name, size = ("pytorch_model.bin", 2**36) if broken == "huge weights" else ("vocab.json", 2**28)
        with (tmp_path / name).open("wb") as file:
            file.truncate(size + 1)  # sparse
    began = time.monotonic()
    name, pretrained = (f"{road}{tmp_path}", None) if road.endswith(":") else (road, tmp_path)
    with pytest.raises(UnknownModelError, match=r"folder .* is not opened: cannot read .*(pipe|device|at most)"):
        ts.load(name, pretrained=pretrained)
    assert time.monotonic() - began < 20  # of which the libraries' imports take most


def test_threads_that_find_no_hub_leave_the_switch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to come is the first to go: it must not set back what the second needs, nor the second leave it on."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def first() -> None:
        with hub_or_cache("a"):
            first_in.set()
            second_in.wait(20)
        first_out.set()

    def second() -> None:
        first_in.wait(20)
        with hub_or_cache("b"):
            second_in.set()
            first_out.wait(20)
            seen.append(constants.HF_HUB_OFFLINE)

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [True] and constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # set by the user: nobody sets it back
    with hub_or_cache("c"):
        pass
    assert constants.HF_HUB_OFFLINE is True
