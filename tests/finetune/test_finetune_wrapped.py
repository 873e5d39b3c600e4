"""Plans on modules that something else wraps: compiled, checkpointed, sharded, in several processes, by accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model, transformers_model
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import CustomPolicy

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import PrescriptionError, PrescriptionWarning
from tracescribe.finetune import Prescription, TrainConfig, load_run, train
from tracescribe.finetune.training.data import training_data
from tracescribe.patching import text_blocks

ALPHA = np.array([0.3, 1.0, 0.0])
PLAN = Prescription(ALPHA)
# float32 parameters of order 1 and steps of 1e-2: rounding is 1e-5 of a step. Two ways of summing gradients (one or two
# processes, compiled or not) are compared nowhere: both sides of a ratio are computed alike.
EXACT = 1e-3


def batch(number: int, rank: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and texts, others for each step and process."""
    generator = torch.Generator().manual_seed(10 * number + rank)
    ids = torch.zeros(4, 12, dtype=torch.long)
    ids[:, 0], ids[:, 7] = 62, 63
    ids[:, 1:7] = torch.randint(1, 62, (4, 6), generator=generator)
    return torch.randn(4, 3, 32, 32, generator=generator), ids


def loss_of(module: nn.Module, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    found = module(images, ids) if not hasattr(module, "text_model") else None
    if found is None:
        out = module(pixel_values=images, input_ids=ids)
        image, text = out.image_embeds, out.text_embeds
    else:
        image, text = found[0], found[1]
    return nn.functional.cross_entropy(20.0 * image @ text.T, torch.arange(len(ids)))


def values(module: nn.Module) -> list[torch.Tensor]:
    """The weights of each text block, as one vector; of a sharded one, gathered from all processes."""
    fsdp1 = isinstance(module, FullyShardedDataParallel)
    with FullyShardedDataParallel.summon_full_params(module) if fsdp1 else nullcontext():
        whole = [
            [p.full_tensor() if hasattr(p, "full_tensor") else p for p in block.parameters()]
            for block in text_blocks(module)
        ]
        return [torch.cat([p.detach().flatten() for p in block]) for block in whole]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)


def applied(module: nn.Module, plan: Prescription, mode: str):
    """An optimiser under the plan, for the module as the wrapper left it."""
    if mode == "param_groups":
        return adamw(plan.param_groups(module, lr=1e-2, others=1e-2))
    optimizer = (sgd if mode == "gradient" else adamw)([p for p in module.parameters() if p.requires_grad])
    plan.attach(module, optimizer, mode=mode)
    return optimizer


Training = Callable[[nn.Module, Prescription, str, int], nn.Module]


def plain(module, plan, mode, rank, wrap=lambda module: module):
    wrapped = wrap(module)
    optimizer = applied(wrapped, plan, mode)
    loss_of(wrapped, *batch(0, rank)).backward()
    optimizer.step()
    return module


def compiled(module, plan, mode, rank):
    return plain(module, plan, mode, rank, lambda module: torch.compile(module, backend="eager"))


def compiled_step(module, plan, mode, rank):
    for name, parameter in module.named_parameters():  # tracing an optimiser takes long, by the number of tensors
        parameter.requires_grad_(name.endswith("ln_1.weight"))
    optimizer = applied(module, plan, mode)

    @torch.compile(backend="eager")
    def step():
        optimizer.step()

    loss_of(module, *batch(0, rank)).backward()
    step()
    return module


def checkpointed(module, plan, mode, rank):
    if hasattr(module, "set_grad_checkpointing"):
        module.set_grad_checkpointing()
    else:  # the second is its name before transformers 5.23
        getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)()
    return plain(module.train(), plan, mode, rank)


def ddp(module, plan, mode, rank):
    return plain(module, plan, mode, rank, nn.parallel.DistributedDataParallel)


def ddp_checkpointed(module, plan, mode, rank):
    module.set_grad_checkpointing()
    return plain(module.train(), plan, mode, rank, nn.parallel.DistributedDataParallel)


def fsdp2(module, plan, mode, rank):
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for block in text_blocks(module):
        fully_shard(block, mesh=mesh)
    module.logit_scale.requires_grad_(False)  # FSDP2 takes no scalars
    fully_shard(module, mesh=mesh, ignored_params={module.logit_scale})
    return plain(module, plan, mode, rank)


def fsdp1(module: nn.Module, original: bool, around: tuple[str, ...] = ()) -> FullyShardedDataParallel:
    """The module sharded by FSDP1, with a unit around each part of these names besides the one around all of it."""
    parts = [part for name, part in module.named_modules() if name in around]
    module.logit_scale.requires_grad_(False)
    policy = CustomPolicy(lambda part: any(part is one for one in parts))
    return FullyShardedDataParallel(
        module,
        auto_wrap_policy=policy,
        use_orig_params=original,
        ignored_states=[module.logit_scale],  # FSDP takes no scalars
        device_id=torch.device("cpu"),
    )


BLOCKS = tuple(f"transformer.resblocks.{number}" for number in range(3))


def sharded(original: bool, around: tuple[str, ...]) -> Training:
    def training(module, plan, mode, rank):
        wrapped = fsdp1(module, original, around)
        plain(wrapped, plan, mode, rank)
        return wrapped

    return training


def accelerated(module, plan, mode, rank):
    """Mixed precision, two batches a step, clipping: two steps."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    optimizer = applied(module, plan, mode)
    prepared, stepper = accelerator.prepare(module, optimizer)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    for number in range(2):
        with accelerator.accumulate(prepared):
            accelerator.backward(loss_of(prepared, *batch(number, rank)))
            if mode != "gradient":  # clipping sees scaled gradients, and then clips another norm
                accelerator.clip_grad_norm_(prepared.parameters(), 0.1)
            stepper.step()
            stepper.zero_grad()
    assert len(seen) == 1
    return module


TRAININGS = {
    "plain": plain,
    "compiled module": compiled,
    "compiled step": compiled_step,
    "checkpointing": checkpointed,
    "DDP": ddp,
    "DDP and checkpointing": ddp_checkpointed,
    "FSDP2": fsdp2,
    "FSDP, original parameters": sharded(True, ()),
    "FSDP, original parameters by block": sharded(True, BLOCKS),
    "FSDP, flat parameters by block": sharded(False, BLOCKS),
    "accelerate": accelerated,
}
ALONE = ("plain", "compiled module", "compiled step", "checkpointing")
MODES = ("param_groups", "update", "gradient")


def ratio(training: Training, mode: str, rank: int = 0, make=open_clip_model) -> np.ndarray:
    """How far each block moved under the plan, as a share of how far it moves without one."""
    start = values(make(layers=3))
    ends = [values(training(make(layers=3), plan, mode, rank)) for plan in (PLAN, PLAN.uniform())]
    scaled, free = ([float((b - a).norm()) for a, b in zip(start, end, strict=True)] for end in ends)
    return np.array(scaled) / np.array(free)


def check_all(rank: int) -> None:
    """Every way of training that needs a process group, on this process's share of the batch."""
    for name, training in TRAININGS.items():
        for mode in MODES:
            if name in ALONE:
                continue
            if name.startswith("FSDP") and mode == "gradient":
                with pytest.raises(PrescriptionError, match=r"FSDP2 or FSDP .*mode='update'"):
                    ratio(training, mode, rank)
                continue
            np.testing.assert_allclose(ratio(training, mode, rank), ALPHA, atol=EXACT, err_msg=f"{name}, {mode}")


def check_realised(rank: int) -> None:
    """A process knows the ratio of what it holds: of two processes each holds half of all parameters."""
    wrapped = fsdp1(open_clip_model(layers=3), True)
    optimizer = adamw([p for p in wrapped.parameters() if p.requires_grad])
    handle = PLAN.attach(wrapped, optimizer)
    loss_of(wrapped, *batch(0, rank)).backward()
    optimizer.step()
    found = handle.realised()
    held = [any(p.numel() for p in block.parameters()) for block in text_blocks(wrapped)]
    assert np.isfinite(found).tolist() == held and any(held)
    np.testing.assert_allclose(found[held], ALPHA[held], atol=EXACT)


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    """A process group of one process, over a file. Accelerate has one state per process, which another test may set."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "compiled" in n else n for n in ALONE])
def test_the_ratio_is_the_plans(name, mode):
    np.testing.assert_allclose(ratio(TRAININGS[name], mode), ALPHA, atol=EXACT)


def with_lora(module: nn.Module) -> nn.Module:
    """Adapters of stock peft, which do something from the start."""
    settings = LoraConfig(r=2, target_modules=r"transformer\.resblocks\.\d+\.mlp\.c_fc", init_lora_weights=False)
    torch.manual_seed(0)
    return get_peft_model(module, settings)


WRAPPED = {
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "DataParallel": nn.DataParallel,
    "compiled with adapters": lambda module: torch.compile(with_lora(module), backend="eager"),
    "adapters": with_lora,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_our_loop_trains_what_is_inside(name, tmp_path):
    """The same adapters, bit for bit, as from the module itself; the saved run goes into the wrapped model again."""
    config = TrainConfig(steps=2, batch_size=2, rank=2, lr=5e-3)

    def result(wrap):
        model = ts.wrap(wrap(open_clip_model(layers=3)), tokenizer=WordTokenizer())
        images = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
        texts = [f"there is {no}effusion ." for no in ("", "no ", "severe ")]
        about = [{"id": str(i), "image": image, "group": str(i)} for i, image in enumerate(images)]
        captions = [CaptionRecord(caption=text, **one) for text, one in zip(texts, about, strict=True)]
        sets = [ClaimRecord(claims=texts, label=i, attribute="existence", **one) for i, one in enumerate(about)]
        return model, train(config, model, data=training_data(model, captions, sets))

    inside = with_lora if "adapters" in name else lambda module: module
    (_, plain), (model, wrapped) = result(inside), result(WRAPPED[name])
    found, expected = wrapped.source.state_dict(), plain.source.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    again = load_run(model, wrapped.save(tmp_path / "run"))
    texts = ["there is no effusion ."]
    torch.testing.assert_close(again.text.encode(texts), wrapped.model.text.encode(texts), rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", MODES)
def test_checkpointing_of_transformers(mode):
    np.testing.assert_allclose(ratio(checkpointed, mode, make=transformers_model), ALPHA, atol=EXACT)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's and accelerate's
def test_the_ratio_in_a_group_of_one_process(one_process):
    check_all(rank=0)
    check_realised(rank=0)


FLAT = r"FSDP has put parameters of text block {} into a flat parameter together with others.*use_orig_params=True"
SPANNING = {
    "one for all": ((), 1),
    "one for the transformer": (("transformer",), 1),
    "one of two blocks left out": (BLOCKS[:2], 3),
    "half of a block": ((BLOCKS[0] + ".attn", *BLOCKS[1:]), 1),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", SPANNING)
def test_flat_parameters_of_several_blocks_are_refused(one_process, name):
    around, layer = SPANNING[name]
    wrapped = fsdp1(open_clip_model(layers=3), False, around)
    optimizer = sgd([p for p in wrapped.parameters() if p.requires_grad])
    for use in (lambda: PLAN.attach(wrapped, optimizer), lambda: PLAN.param_groups(wrapped, lr=1e-3)):
        with pytest.raises(PrescriptionError, match=FLAT.format(layer)):
            use()


class Mine(nn.Module):
    """A model of one's own around a CLIP, as training scripts have it."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return loss_of(self.clip, images, ids)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_gradients_that_pass_the_hooks_are_refused_or_said(one_process):
    """Sharding around a module of which only a part was passed."""
    clip = open_clip_model(layers=3)
    clip.logit_scale.requires_grad_(False)
    FullyShardedDataParallel(
        Mine(clip), use_orig_params=True, ignored_states=[clip.logit_scale], device_id=torch.device("cpu")
    )
    with pytest.raises(PrescriptionError, match="sharded by FSDP2 or FSDP"):
        PLAN.attach(clip, sgd(clip.parameters()), mode="gradient")

    clip = open_clip_model(layers=3)
    clip.logit_scale.requires_grad_(False)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = fully_shard(Mine(clip), mesh=mesh, ignored_params={clip.logit_scale})
    optimizer = sgd([p for p in clip.parameters() if p.requires_grad])
    PLAN.attach(clip, optimizer, mode="gradient", others=1)
    model(*batch(0)).backward()
    with pytest.warns(PrescriptionWarning, match=r"24 of the plan's parameters have gradients that are not scaled"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrescriptionWarning)  # said once
        optimizer.step()


# -- DeepSpeed ------------------------------------------------------------------------------------------------------


def of_deepspeed(name: str, *bases: type, **attributes: Any) -> Any:
    """A class as DeepSpeed has it, which is not installed here."""
    return type(name, bases, {"__module__": "deepspeed.runtime.zero.stage_1_and_2", **attributes})


def deepspeed_engine(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
    """What ``deepspeed.initialize`` makes of them under ZeRO 1: the optimiser steps from flat copies of each group."""
    for group in optimizer.param_groups:
        flat = torch.cat([p.detach().flatten() for p in group["params"]])
        group["params"] = [nn.Parameter(flat)]
    engine = of_deepspeed("DeepSpeedEngine", nn.Module)()
    engine.module = module
    wrapper = of_deepspeed("DeepSpeedZeroOptimizer", object)()
    wrapper.optimizer, wrapper.param_groups = optimizer, optimizer.param_groups
    return engine, wrapper


@pytest.mark.parametrize("mode", ["update", "gradient"])
@pytest.mark.parametrize("by_accelerate", [False, True])
def test_deepspeeds_optimiser_is_refused_by_name(mode, by_accelerate):
    module = open_clip_model(layers=3)
    engine, optimizer = deepspeed_engine(module, adamw(module.parameters()))
    if by_accelerate:
        optimizer = SimpleNamespace(optimizer=optimizer, param_groups=optimizer.param_groups)
    with pytest.raises(PrescriptionError, match=r"DeepSpeed's optimiser .*deepspeed.initialize .* plan\.param_groups"):
        PLAN.attach(engine, optimizer, mode=mode)


def test_a_plan_whose_parameters_were_replaced_stops_the_first_step():
    module = open_clip_model(layers=3)
    optimizer = adamw(module.parameters())
    PLAN.attach(module, optimizer)
    start = values(module)
    deepspeed_engine(module, optimizer)
    with pytest.raises(PrescriptionError, match=r"AdamW no longer holds the parameters .* or use plan\.param_groups"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(start, values(module), strict=True))


def in_a_process(rank: int, world: int, store: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    check_all(rank)
    check_realised(rank)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_ratio_in_two_processes(tmp_path: Path):
    torch.multiprocessing.spawn(in_a_process, args=(2, f"file://{tmp_path / 'store'}"), nprocs=2)
