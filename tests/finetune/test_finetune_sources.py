"""What batches are drawn from: several files by weight, texts as targets, and image embeddings kept on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import WordTokenizer, open_clip_model
from PIL import Image

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import DataFormatError, OutputError
from tracescribe.finetune import TrainConfig, train
from tracescribe.finetune.training.data import training_data
from tracescribe.finetune.training.image_cache import ImageCache
from tracescribe.finetune.training.sampling import Sampler, Share


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((32, 32)), dtype=np.float32) / 255).permute(2, 0, 1)


@pytest.fixture
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer(), preprocess=pixels)


@pytest.fixture
def films(tmp_path: Path) -> list[str]:
    for i in range(5):
        Image.new("RGB", (32, 32), (40 * i, 200 - 30 * i, 90)).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(5)]


# -- sampling -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.lists(st.integers(1, 9), max_size=6), st.integers(0, 9))
def test_the_sequence_does_not_depend_on_how_it_is_taken(sizes, takes, seed):
    ends = np.cumsum([0, *sizes]).tolist()
    shares = [Share(ends[i], ends[i + 1], 1.0 + i) for i in range(len(sizes))]
    sampler = Sampler(shares, seed, 0)
    parts = [sampler.take(n) for n in takes]
    at_once = Sampler(shares, seed, 0).take(sum(takes))
    np.testing.assert_array_equal(np.concatenate([*parts, []]), at_once)
    if len(shares) == 1 and len(at_once) >= sizes[0]:
        assert sorted(at_once[: sizes[0]]) == list(range(sizes[0]))


def test_sources_give_their_share_and_each_is_seen_whole():
    drawn = Sampler([Share(0, 50, 3.0), Share(50, 60, 1.0)], 0, 0).take(4000)
    second = drawn[drawn >= 50]
    # a binomial of 4000 draws at 1/4: five standard deviations are 137
    assert abs(len(second) - 1000) < 137
    assert sorted(second[:10]) == list(range(50, 60))
    first = drawn[drawn < 50]
    assert sorted(first[:50]) == list(range(50))


def test_several_files_with_weights(model, films, tmp_path):
    def write(name: str, numbers: list[int]) -> Path:
        rows = [{"id": str(i), "caption": f"film {i} .", "image": f"{i}.png", "group": str(i)} for i in numbers]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return tmp_path / name

    claims = [ClaimRecord(id="0", image=films[0], claims=["a .", "b ."], label=0, attribute="x", group="0")]
    files = {write("a.jsonl", [0, 1, 2]): 1.0, write("b.jsonl", [3, 4]): 3.0}
    data = training_data(model, files, claims, split=None)
    assert data.caption_shares == (Share(0, 3, 1.0), Share(3, 5, 3.0))
    drawn = torch.cat([batch.caption for batch in data.batches(32, 20, seed=0)])
    of_second = torch.isin(drawn, data.caption[3:]).float().mean()
    assert 0.65 < of_second < 0.85  # 640 draws at 3/4: six standard deviations
    one = training_data(model, tmp_path / "a.jsonl", claims, split=None)
    assert one.caption_shares == ()


# -- targets --------------------------------------------------------------------------------------------------------


def test_a_text_may_be_the_frozen_target(model, films, tmp_path):
    report = "there is a large effusion ."
    rows = [{"id": "0", "caption": "effusion .", "image": {"text": report}, "group": "0"}]
    rows.append({"id": "1", "caption": "no effusion .", "image": "1.png", "group": "1"})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    claims = [
        ClaimRecord(id="0", image=ts.Text(report), claims=["a .", "b ."], label=0, attribute="x", group="0"),
        ClaimRecord(id="1", image=ts.Text(report), claims=["a .", "c ."], label=0, attribute="x", group="1"),
    ]
    data = training_data(model, tmp_path / "captions.jsonl", claims, split=None)
    assert len(data.images) == 2  # the text once, the image once
    torch.testing.assert_close(data.images[data.caption_image[0]], model.encode_texts([report])[0])
    torch.testing.assert_close(data.images[data.claim_image[1]], model.encode_texts([report])[0])
    result = train(TrainConfig(steps=2, batch_size=2, rank=2), model, data=data)
    assert np.isfinite(result.history.loss).all()
    (tmp_path / "captions.jsonl").write_text(json.dumps(rows[0] | {"image": {"txt": "x"}}), encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"captions\.jsonl:1: field 'image'"):
        training_data(model, tmp_path / "captions.jsonl", claims, split=None)


def test_a_record_without_image_is_named():
    captions = [CaptionRecord(id="0", image=None, caption="x .", group="0")]
    claims = [ClaimRecord(id="0", image=torch.ones(16), claims=["a .", "b ."], label=0, attribute="x", group="0")]
    model = ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())
    with pytest.raises(DataFormatError, match=r"the record '0' has no image: give a path, an embedding or a text"):
        training_data(model, captions, claims)


# -- the cache ------------------------------------------------------------------------------------------------------


def test_images_are_encoded_once(model, films, tmp_path, monkeypatch):
    expected = model.encode_images(films).numpy()
    rows, index = ImageCache(tmp_path / "cache", model).embed([*films, films[1]])
    np.testing.assert_allclose(rows[index], np.concatenate([expected, expected[1:2]]), atol=1e-6)
    seen = []
    encode = ts.DualEncoder.encode_images
    monkeypatch.setattr(
        ts.DualEncoder,
        "encode_images",
        lambda self, images, *a: seen.extend(map(str, images)) or encode(self, images, *a),
    )
    cache = ImageCache(tmp_path / "cache", model)
    seen.clear()  # the probes
    again, places = cache.embed(films[::-1])
    assert seen == []
    np.testing.assert_array_equal(again[places], rows[index[:5]][::-1])
    Image.new("RGB", (32, 32), (1, 2, 3)).save(films[2])
    os.utime(films[2], (1, 1))
    changed, places = cache.embed(films)
    assert seen == [films[2]]
    assert np.abs(changed[places[2]] - rows[index[2]]).max() > 1e-4


def test_another_encoder_has_rows_of_its_own(model, films, tmp_path):
    first = ImageCache(tmp_path / "cache", model)
    first.embed(films)
    other = ts.wrap(open_clip_model(layers=2, seed=1), tokenizer=WordTokenizer(), preprocess=pixels)
    flipped = ts.wrap(model.source, tokenizer=WordTokenizer(), preprocess=lambda image: pixels(image).flip(0))
    places = {ImageCache(tmp_path / "cache", each).place for each in (model, other, flipped, model)}
    assert len(places) == 3 and first.place in places
    rows, index = ImageCache(tmp_path / "cache", flipped).embed(films)
    np.testing.assert_allclose(rows[index], flipped.encode_images(films), atol=1e-6)


@pytest.mark.parametrize("cut", ["keys.jsonl", "vectors.f32"])
def test_what_a_killed_process_left_is_cut_off(model, films, tmp_path, cut):
    cache = ImageCache(tmp_path / "cache", model)
    rows, index = cache.embed(films)
    expected = rows[index].copy()
    path = cache.place / cut
    path.write_bytes(path.read_bytes()[:-3])
    rows, index = cache.embed(films)
    assert len(rows) == 5
    np.testing.assert_allclose(rows[index], expected, atol=1e-6)


def test_damage_a_missing_image_and_a_place_that_cannot_be_written(model, films, tmp_path):
    cache = ImageCache(tmp_path / "cache", model)
    cache.embed(films[:3])
    with pytest.raises(DataFormatError, match=r"cannot read the image '.*none\.png': No such file"):
        cache.embed([*films, str(tmp_path / "none.png")])
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataFormatError, match=r"bad\.png"):
        cache.embed([str(tmp_path / "bad.png")])
    path = cache.place / "vectors.f32"
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(DataFormatError, match=r"damaged \(row 1 .*delete the folder"):
        cache.embed(films)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write the image cache"):
        ImageCache(tmp_path / "file", model)


def test_training_data_from_the_cache_are_the_same(model, films, tmp_path):
    captions = [
        CaptionRecord(id=str(i), image=path, caption=f"film {i} .", group=str(i)) for i, path in enumerate(films)
    ]
    claims = [
        ClaimRecord(id=str(i), image=path, claims=["a .", f"b {i} ."], label=1, attribute="x", group=str(i))
        for i, path in enumerate(films[::-1])
    ]
    plain = training_data(model, captions, claims)
    for _ in range(2):
        cached = training_data(model, captions, claims, image_cache=tmp_path / "cache")
        for one, other in zip(plain.batches(3, 4, 0), cached.batches(3, 4, 0), strict=True):
            torch.testing.assert_close(one.claim_image, other.claim_image, rtol=0, atol=1e-6)
            assert torch.equal(one.caption, other.caption)
