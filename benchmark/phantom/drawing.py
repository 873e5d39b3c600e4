"""Draws a phantom film from its facts: the chest, each finding's own shadow, the film's response, and grain."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from .anatomy import (
    Anatomy,
    Image,
    chest_shadow,
    grid,
    heart_mask,
    lung_distance,
    lung_mask,
    sample_anatomy,
    soft,
)
from .anatomy import sign as side_sign
from .facts import CONDITIONS, Facts, Finding

SIZE = 64
"""Film size the miniature was trained on, in pixels."""

Seed = int | tuple[int, ...]

LEVEL = {"mild": 0, "moderate": 1, "severe": 2}
_EFFUSION_HEIGHT = (0.20, 0.48, 0.84)
_COLLAPSE = (0.80, 0.58, 0.30)
_OPACITY_RADIUS = (0.15, 0.21, 0.28)
_OPACITY_DENSITY = (0.27, 0.40, 0.54)
_HEART_SCALE = (1.28, 1.58, 1.95)
_EDEMA_DENSITY = (0.19, 0.33, 0.50)
_NODULE_RADIUS = (0.072, 0.110, 0.155)
_ZONE_Y = {"upper": -0.46, "mid": -0.07, "lower": 0.30}


def draw(
    facts: Facts, seed: Seed, *, size: int = SIZE, patient: Seed | None = None
) -> Float32[np.ndarray, "size size"]:
    """One film, brightness 0 (black, air) to 1 (white, bone).

    ``seed`` fixes the patient, the place of each finding and the grain; every finding has its own random stream,
    so that two films of one seed differ only where their facts differ. Another ``size`` gives the same patient and
    findings with finer detail (the grain is drawn anew). ``patient`` takes the anatomy from another seed, for several
    films of one patient.

    >>> film = draw(Facts(), 0)
    >>> film.shape, film.dtype.name
    ((64, 64), 'float32')
    """
    root = _words(seed)
    anatomy = sample_anatomy(np.random.default_rng([*(root if patient is None else _words(patient)), 1]))
    heart = facts.get("cardiomegaly")
    scale = 1.0 if heart is None else _HEART_SCALE[LEVEL[str(heart.severity)]]
    shadow = chest_shadow(anatomy, size, scale)
    # Devices last: metal lies over everything else.
    for name in ("edema", "opacity", "nodule", "pneumothorax", "effusion", "device"):
        finding = facts.get(name)
        if finding is not None:
            stream = np.random.default_rng([*root, 2, list(CONDITIONS).index(name)])
            shadow = _DRAW[name](shadow, finding, anatomy, stream, size)
    film = _response(shadow * anatomy.exposure)
    return (film + _grain(root, size)).clip(0.0, 1.0).astype(np.float32)


def _words(seed: Seed) -> tuple[int, ...]:
    return tuple(seed) if isinstance(seed, tuple) else (int(seed),)


def to_uint8(film: Float32[np.ndarray, "size size"]) -> UInt8[np.ndarray, "size size"]:
    """Brightness 0..1 as 8-bit grey."""
    return np.asarray(np.rint(film * 255.0), dtype=np.uint8)


def _response(shadow: Image) -> Image:
    # A film's S-shaped curve: lungs stay dark but readable, bone and fluid saturate softly.
    return 1.0 / (1.0 + np.exp(-(shadow - 0.40) * 5.2))


def _grain(root: tuple[int, ...], size: int) -> Image:
    rng = np.random.default_rng([*root, 3, size])
    fine = rng.standard_normal((size, size), dtype=np.float32)
    return 0.018 * fine


def _air(shadow: Image) -> Image:
    # How much air is left to replace: what fills alveoli adds little where heart or fluid already lie.
    return np.clip((0.62 - shadow) / 0.45, 0.0, 1.0)


def _effusion(shadow: Image, f: Finding, a: Anatomy, rng: np.random.Generator, size: int) -> Image:
    x, y = grid(size)
    side = str(f.side)
    height = _EFFUSION_HEIGHT[LEVEL[str(f.severity)]] + rng.uniform(-0.04, 0.04)
    ax = side_sign(side) * x
    base = (a.dome_left if side == "left" else a.dome_right) + 0.16
    # The meniscus climbs along the chest wall.
    level = base - height + 0.05 - 1.5 * np.clip(ax - 0.36, 0, 1) ** 2
    # A little beyond the lung's own soft edge, or a dark seam would stay between fluid and diaphragm.
    cavity = soft(lung_distance(a, side, size) + 0.035, 0.05)
    fluid = cavity * soft(y - level, 0.08)
    target = 0.62 + 0.06 * y
    return shadow + fluid * np.clip(target - shadow, 0, None)


def _pneumothorax(shadow: Image, f: Finding, a: Anatomy, rng: np.random.Generator, size: int) -> Image:
    x, _ = grid(size)
    side = str(f.side)
    shrink = _COLLAPSE[LEVEL[str(f.severity)]] * rng.uniform(0.97, 1.03)
    whole = lung_mask(a, side, size)
    distance = lung_distance(a, side, size, shrink)
    lung = soft(distance, 0.04)
    # Air lateral to the lung's edge: blacker than lung, without vessels. The mediastinum is not part of it.
    air = whole * (1 - lung) * soft(side_sign(side) * x - 0.20, 0.06) * (1 - heart_mask(a, size))
    edge = np.exp(-((distance / max(0.018, 1.2 / size)) ** 2)) * whole * soft(side_sign(side) * x - 0.20, 0.06)
    denser = lung * whole * (1 - heart_mask(a, size)) * 0.16 * (1 - shrink)
    return shadow + denser + 0.13 * edge - air * np.clip(shadow + 0.12, 0, None) * 0.75


def _place(f: Finding, a: Anatomy, rng: np.random.Generator) -> tuple[float, float]:
    out = rng.uniform(0.38, 0.56) if f.zone != "upper" else rng.uniform(0.36, 0.50)
    return side_sign(str(f.side)) * out, _ZONE_Y[str(f.zone)] + rng.uniform(-0.06, 0.06)


def _opacity(shadow: Image, f: Finding, a: Anatomy, rng: np.random.Generator, size: int) -> Image:
    x, y = grid(size)
    cx, cy = _place(f, a, rng)
    level = LEVEL[str(f.severity)]
    radius = _OPACITY_RADIUS[level]
    # A few overlapping clouds: an opacity is never a disc.
    cloud = np.zeros_like(x)
    for _ in range(5):
        dx, dy = rng.uniform(-0.55, 0.55, 2) * radius
        r = radius * rng.uniform(0.55, 0.9)
        cloud = np.maximum(cloud, np.exp(-(((x - cx - dx) / r) ** 2 + ((y - cy - dy) / r) ** 2)))
    return shadow + _OPACITY_DENSITY[level] * cloud * lung_mask(a, str(f.side), size) * _air(shadow)


def _edema(shadow: Image, f: Finding, a: Anatomy, rng: np.random.Generator, size: int) -> Image:
    x, y = grid(size)
    density = _EDEMA_DENSITY[LEVEL[str(f.severity)]]
    out = shadow
    for side in ("left", "right"):
        ax = side_sign(side) * x
        wing = np.exp(-(((ax - 0.32) / 0.20) ** 2 + ((y - 0.02) / 0.34) ** 2))
        streaks = 0.75 + 0.25 * np.cos(30 * (y - 0.6 * ax) + rng.uniform(0, 6))
        lines = soft(0.012 - np.abs(np.mod(y, 0.07) - 0.035), 0.02) * soft(ax - 0.52, 0.08) * soft(y - 0.05, 0.1)
        out = out + lung_mask(a, side, size) * density * _air(shadow) * (wing * streaks + 0.25 * lines)
    return out


def _device(shadow: Image, f: Finding, a: Anatomy, rng: np.random.Generator, size: int) -> Image:
    x, y = grid(size)
    s = side_sign(str(f.side))
    cx, cy = s * rng.uniform(0.50, 0.60), rng.uniform(-0.56, -0.48)
    u, v = (x - cx) / 0.115, (y - cy) / 0.095
    can = soft((1 - (u**4 + v**4) ** 0.25) * 0.1, 0.02)
    tip_x, tip_y = 0.16 + rng.uniform(-0.03, 0.03), a.dome_left - 0.10
    t = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    # From the can over the superior vena cava down to the right ventricle: a quadratic curve, then a straight run.
    px = (1 - t) ** 2 * cx + 2 * t * (1 - t) * (-0.10) + t**2 * tip_x
    py = (1 - t) ** 2 * cy + 2 * t * (1 - t) * (-0.62 + 0.35 * t) + t**2 * tip_y
    lead = np.min(np.hypot(x - px, y - py), axis=0)
    wire = soft(0.012 - lead, 0.012)
    return np.maximum(shadow, np.maximum(1.05 * can, 0.82 * wire))


def _nodule(shadow: Image, f: Finding, a: Anatomy, rng: np.random.Generator, size: int) -> Image:
    x, y = grid(size)
    cx, cy = _place(f, a, rng)
    radius = _NODULE_RADIUS[LEVEL[str(f.severity)]]
    disc = soft(radius - np.hypot(x - cx, y - cy), 0.03)
    return shadow + 0.44 * disc * lung_mask(a, str(f.side), size)


_DRAW = {
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "opacity": _opacity,
    "edema": _edema,
    "device": _device,
    "nodule": _nodule,
}
