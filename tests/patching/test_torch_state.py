"""The caller's torch settings reach no number: every pass runs under one neutral state, which is put back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from models import WordTokenizer, counterfactual_pixels, open_clip_image_model
from PIL import Image
from torch_states import STATES, precision, setting, state_of_torch

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import TorchStateError
from tracescribe.finetune import TrainConfig, train
from tracescribe.finetune.training.data import training_data
from tracescribe.patching import DirectEngine, Sweep, site_named
from tracescribe.patching.torch_state import neutral_state

CAPTIONS = {"correct": "there is no edema.", "foil": "there is some edema."}
PIXELS = counterfactual_pixels(1, (32, 32), (8, 8), [(0, 1), (2, 2)])


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    """Its convolution has enough channels for oneDNN to take it."""
    return ts.wrap(open_clip_image_model(), tokenizer=WordTokenizer())


@pytest.fixture(scope="module")
def quiet(model: ts.DualEncoder) -> dict[str, np.ndarray]:
    return everything(model)


def everything(model: ts.DualEncoder) -> dict[str, np.ndarray]:
    """A number from every kind of pass in the package, by name."""
    image = model.encode_images(torch.stack(PIXELS))
    pair = ts.Pair(**CAPTIONS, image=image[0])
    options: Any = {"progress": False, "floor": 0}
    heads = [[ts.patching.Column(tuple(range(7)), head) for head in range(2)]]
    base, donor = model.text.rows(list(CAPTIONS.values()))
    direct = DirectEngine(model.text).patch([base], [donor], sweep=Sweep(site_named("z")), columns=heads)
    [(_, patterns)] = ts.patching.attention_patterns(model.text, [base])
    images = ts.ImagePair(image=PIXELS[0], counterfactual=PIXELS[1], caption=CAPTIONS["foil"])
    found = {
        "image": image,
        "text": model.encode_texts(["a mass", CAPTIONS["foil"]]),
        "wrapped": ts.wrap(model.source, tokenizer=WordTokenizer()).encode_texts(["a mass"]),
        "vision": model.vision.encode(PIXELS),
        "exact": ts.trace(model, [pair], **options).scores.patched,
        "generic": ts.trace(model, [pair], path="generic", site="pattern", **options).scores.patched,
        "attribution": ts.trace(model, [pair], method="attribution", steps=2, **options).scores.patched,
        "images": ts.trace_images(model, [images], **options).scores.patched,
        "direct": direct.patched,
        "patterns": patterns,
        "verified": np.array(list(model.verify().values())),
    }
    return {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in found.items()}


def trained(model: ts.DualEncoder) -> dict[str, np.ndarray]:
    """Losses and adapters of three steps."""
    images = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    captions = [
        CaptionRecord(id=str(i), image=image, caption=CAPTIONS["foil"], group=str(i)) for i, image in enumerate(images)
    ]
    claims = [
        ClaimRecord(
            id=str(i), image=image, claims=list(CAPTIONS.values()), label=i % 2, attribute="existence", group=str(i)
        )
        for i, image in enumerate(images)
    ]
    config = TrainConfig(steps=3, batch_size=2, lr=1e-2, rank=2)
    result = train(config, model, data=training_data(model, captions, claims))
    found = {name: tensor.detach().numpy() for name, tensor in result.source.state_dict().items() if "lora" in name}
    return {**found, "loss": result.history.loss}


@pytest.mark.parametrize("state", ["autocast", "inference mode", "no_grad", "default dtype", "default device"])
def test_training_is_that_of_a_quiet_process(model: ts.DualEncoder, state: str) -> None:
    expected = trained(model)
    with STATES[state]():
        found = trained(model)
    assert found.keys() == expected.keys() and len(found) > 1
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("state", STATES)
def test_numbers_are_those_of_a_quiet_process(model: ts.DualEncoder, quiet: dict[str, np.ndarray], state: str) -> None:
    with STATES[state]():
        before = state_of_torch()
        found = everything(model)
        assert state_of_torch() == before
    assert found.keys() == quiet.keys()
    for name, values in quiet.items():
        assert found[name].dtype == values.dtype and found[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("state", ["default dtype", "default half", "default device", "inference mode"])
def test_a_model_is_loaded_as_in_a_quiet_process(state: str) -> None:
    expected = ts.load("phantom")
    with STATES[state]():
        found = ts.load("phantom")
        text = found.encode_texts(["There is no opacity."])
        attributed = ts.trace(
            found,
            [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=text[0])],
            method="attribution",
            exact_sample=1,
            progress=False,
        )
    assert found.text.fingerprint() == expected.text.fingerprint() and found.text.dtype == torch.float32
    assert torch.equal(text, expected.encode_texts(["There is no opacity."]))
    assert np.isfinite(attributed.cte).all()


def test_preprocessing_is_that_of_a_quiet_process() -> None:
    """torchvision's ToTensor divides in the default dtype, and processors' arrays went to the default device."""
    source = open_clip_image_model()
    films = [Image.fromarray(np.random.default_rng(at).integers(0, 256, (32, 32, 3), dtype=np.uint8)) for at in (0, 1)]
    pair = ts.ImagePair(image=films[0], counterfactual=films[1], caption=CAPTIONS["foil"])
    processed: Callable[[Any], Any] = lambda image: {"pixel_values": [np.asarray(image, np.float32).T / 255]}  # noqa: E731
    for preprocess in (torchvision.transforms.ToTensor(), processed):
        model = ts.wrap(source, tokenizer=WordTokenizer(), preprocess=preprocess)

        def found(model: ts.DualEncoder = model) -> list[np.ndarray]:
            traced = ts.trace_images(model, [pair], progress=False, floor=0).scores.patched
            return [model.image.pixels(films[0]).numpy(), model.encode_images(films).numpy(), traced]

        expected = found()
        for state in ("default dtype", "default half", "default device"):
            with STATES[state]():
                assert [values.tobytes() for values in found()] == [values.tobytes() for values in expected], state


def test_weights_made_in_inference_mode_can_be_traced_every_way() -> None:
    """Autograd reads no such tensor, and torch counts no writes to it."""
    with torch.inference_mode():
        source = open_clip_image_model()
    assert next(source.parameters()).is_inference()
    found = everything(ts.wrap(source, tokenizer=WordTokenizer()))
    expected = everything(ts.wrap(open_clip_image_model(), tokenizer=WordTokenizer()))
    del expected["verified"]  # the source's own attention takes another kernel for such weights
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def test_a_source_in_training_mode_gives_the_numbers_of_evaluation_and_stays_in_training_mode() -> None:
    source = open_clip_image_model()
    source.visual.conv1 = torch.nn.Sequential(source.visual.conv1, torch.nn.Dropout(0.5))
    model = ts.wrap(source.eval(), tokenizer=WordTokenizer())
    expected = model.encode_images(torch.stack(PIXELS)), model.encode_texts(["a mass"])
    source.train()
    model.text.train()
    found = model.encode_images(torch.stack(PIXELS)), model.encode_texts(["a mass"])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert all(module.training for root in (source, model.text) for module in root.modules())


@pytest.mark.parametrize("state", STATES)
def test_the_state_comes_back_after_an_exception(model: ts.DualEncoder, state: str) -> None:
    with STATES[state]():
        before = state_of_torch()
        with pytest.raises(RuntimeError, match="stop"), neutral_state(model.source, grad=True):
            assert not torch.is_autocast_enabled("cpu") and torch.get_default_dtype() == torch.float32
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            assert torch.zeros(1).device.type == "cpu"
            raise RuntimeError("stop")
        assert state_of_torch() == before


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_another_number_of_threads_changes_the_last_bits_at_most(
    model: ts.DualEncoder, quiet: dict[str, np.ndarray], threads: int
) -> None:
    with setting(torch.get_num_threads, torch.set_num_threads, threads):
        found = everything(model)
        assert torch.get_num_threads() == threads
    for name, values in quiet.items():
        # another order of summation, float32: a few units in the last place of entries of at most 1
        np.testing.assert_allclose(found[name], values, atol=2e-6, rtol=0, err_msg=name)


def products_are_float32() -> bool:
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        return torch.get_float32_matmul_precision() == "highest"
    return all(
        torch._C._get_fp32_precision_getter(backend, operation) == "ieee"
        for backend in ("cuda", "mkldnn")
        for operation in ("matmul", "conv")
    )


def test_precision_stays_full_until_the_last_thread_leaves_and_then_comes_back() -> None:
    """One thread leaves while the other still runs, in either order of their leaving."""
    for first_in_leaves_first in (True, False):
        with STATES["medium precision"](), STATES["default dtype"]():
            before = state_of_torch()
            entered, may_leave = (threading.Event(), threading.Event()), (threading.Event(), threading.Event())
            seen: list[bool] = []

            def run(number: int, entered: Any = entered, may_leave: Any = may_leave, seen: Any = seen) -> None:
                with neutral_state():
                    entered[number].set()
                    may_leave[number].wait(10)
                    seen.append(products_are_float32() and torch.get_default_dtype() == torch.float32)

            threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
            for number, thread in enumerate(threads):
                thread.start()
                assert entered[number].wait(10)
            order = (0, 1) if first_in_leaves_first else (1, 0)
            may_leave[order[0]].set()
            threads[order[0]].join(10)
            assert products_are_float32() and torch.get_default_dtype() == torch.float32  # one is still inside
            may_leave[order[1]].set()
            threads[order[1]].join(10)
            assert seen == [True, True] and state_of_torch() == before


def test_two_threads_trace_beside_each_other_and_leave_the_state_as_it_was(model: ts.DualEncoder) -> None:
    pair = ts.Pair(**CAPTIONS, image=np.ones(16))
    expected = ts.trace(model, [pair], progress=False, floor=0).scores.patched
    found: list[np.ndarray] = []
    observed: list[bool] = []
    handle = model.text.blocks[0].mlp.register_forward_hook(lambda *_: observed.append(products_are_float32()))
    with STATES["medium precision"]():
        before = state_of_torch()

        def run() -> None:
            for _ in range(3):
                model.text.encode(list(CAPTIONS.values()))
                found.append(ts.trace(model, [pair], progress=False, floor=0).scores.patched)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert state_of_torch() == before
    handle.remove()
    assert observed and all(observed)
    assert len(found) == 6 and all(np.array_equal(scores, expected) for scores in found)


def test_an_inherited_precision_is_inherited_again() -> None:
    with precision("generic", "all", "tf32"):
        with neutral_state():
            assert products_are_float32()
        torch._C._set_fp32_precision_setter("generic", "all", "ieee")  # set above, so it must reach what lies below
        assert torch._C._get_fp32_precision_getter("mkldnn", "conv") in ("ieee", "none")


def test_a_setting_that_the_caller_changes_inside_is_left_alone() -> None:
    with setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64):
        with neutral_state():
            torch.set_default_dtype(torch.float16)
        assert torch.get_default_dtype() == torch.float16


def test_states_that_cannot_be_suspended_are_refused(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.raises(TorchStateError, match="fake-tensor mode"):
        model.encode_texts(["a mass"])

    def cosine(x: torch.Tensor) -> torch.Tensor:
        return (x * model.encode_texts(["a mass"])[0]).sum()

    with pytest.raises(TorchStateError, match=r"torch\.func"):
        torch.func.grad(cosine)(torch.ones(16))
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "BF16")
    with pytest.raises(TorchStateError, match="DNNL_DEFAULT_FPMATH_MODE='BF16' lets oneDNN round"):
        model.encode_texts(["a mass"])
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "STRICT")
    assert torch.isfinite(model.encode_texts(["a mass"])).all()
