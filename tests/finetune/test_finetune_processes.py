"""Training in two processes: the result of one, and a run that was killed goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import TRAINED
from launching import accelerate_launch, free_port, rank_of_two
from models import WordTokenizer, in_double, open_clip_model

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import OutputError
from tracescribe.finetune import Prescription, TrainConfig, train
from tracescribe.finetune.training.data import training_data

FINDINGS = ("effusion", "edema", "nodule", "device")


def trained(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and adapters of a small run in float64, with all that a step may hold; checkpoints go to ``folder``."""
    model = in_double(ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer()))
    generator = torch.Generator().manual_seed(0)
    captions, claims = [], []
    for i in range(9):
        image, finding = torch.randn(16, generator=generator), " ".join(FINDINGS[: 1 + i % 4])
        text, foil = f"there is {finding} .", f"there is no {finding} ."
        captions.append(CaptionRecord(id=str(i), image=image, caption=text, group=str(i)))
        claims.append(
            ClaimRecord(id=str(i), image=image, claims=[foil, text], label=1, attribute="existence", group=str(i))
        )
    config = TrainConfig(
        steps=4,
        batch_size=3,
        accumulate=2,
        clip_norm=0.5,
        schedule="cosine",
        warmup=1,
        lr=5e-3,
        rank=2,
        weighting="update",
        plan=Prescription(np.array([0.2, 1.0, 0.6])),
        checkpoint_every=2,
    )
    result = train(config, model, data=training_data(model, captions, claims), checkpoints=folder)
    adapters = {name: p.detach() for name, p in result.source.named_parameters() if ".lora_" in name}
    return result.history.loss.tolist(), adapters


def one_of_two(rank: int, port: int, folder: Path) -> None:
    import os

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= rank_of_two(rank, port)
    torch.save(trained(folder / "checkpoint"), folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    """Batches of 3 captions and 3 sets have odd numbers of distinct texts, which two processes do not share evenly."""
    torch.multiprocessing.spawn(one_of_two, args=(free_port(), tmp_path), nprocs=2)
    losses, adapters = trained(tmp_path / "alone")
    (first_losses, first), (_, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    np.testing.assert_allclose(first_losses, losses, rtol=TRAINED)
    assert first.keys() == adapters.keys()
    for name, value in adapters.items():
        assert torch.equal(first[name], second[name]), name  # no drift between processes
        torch.testing.assert_close(first[name], value, rtol=0, atol=TRAINED, msg=name)
    assert (tmp_path / "checkpoint" / "manifest.json").is_file()


def test_only_the_first_process_looks_after_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one that looked later than the first began to write would refuse to go on."""
    folder = tmp_path / "checkpoint"
    trained(folder)
    with pytest.raises(OutputError, match="holds the checkpoint of a run that was stopped"):
        trained(folder)
    monkeypatch.setenv("RANK", "1")
    trained(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tracescribe.benchmark.phantom.dataset import build_phantom

    folder = tmp_path_factory.mktemp("films") / "data"
    build_phantom(folder, 40)
    return folder


def command(data: Path, output: Path, *more: str) -> list[str]:
    options = ["--steps", "12", "--batch-size", "4", "--checkpoint-every", "1", "--evaluate-every", "4", "--json"]
    cache = f"data.image_cache={output.parent / 'images'}"
    return ["-m", "tracescribe", "finetune", "phantom", str(data), cache, "-o", str(output), *options, *more]


@pytest.mark.slow
def test_the_command_in_two_processes_and_after_a_kill(data: Path, tmp_path: Path) -> None:
    done = accelerate_launch(command(data, tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 12  # one document: the other process says nothing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "run"]

    def start(rank: int, port: int, *more: str) -> subprocess.Popen[str]:
        arguments = command(data, tmp_path / "again", *more)
        return subprocess.Popen(
            [sys.executable, *arguments], env=rank_of_two(rank, port), text=True, stdout=subprocess.DEVNULL
        )

    port = free_port()
    killed = [start(rank, port) for rank in (0, 1)]
    manifest = tmp_path / "again.checkpoint" / "manifest.json"
    deadline = time.monotonic() + 300
    while not manifest.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in killed:
        process.kill()
        process.wait()
    assert manifest.is_file() and not (tmp_path / "again").exists()
    port = free_port()
    resumed = [start(rank, port, "--resume") for rank in (0, 1)]
    assert [process.wait(timeout=600) for process in resumed] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "images", "run"]
    for name in ("adapter/adapter_model.safetensors", "log.csv", "result.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    port = free_port()
    finished = [start(rank, port, "--resume") for rank in (0, 1)]
    assert [process.wait(timeout=600) for process in finished] == [0, 0]
