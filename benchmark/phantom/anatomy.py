"""The healthy chest of a phantom: shapes of lungs, heart, ribs, spine and diaphragm, and the shadow they cast.

Coordinates run from -1 to 1 in both directions, y downwards; as on any frontal film, the patient's left is at the
viewer's right (x > 0). Shadows are attenuations: bone and fluid add, air takes away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

Image = Float[np.ndarray, "size size"]


@dataclass(frozen=True)
class Anatomy:
    """One patient's chest, in units of half the film's width."""

    lung_x: float  # distance of a lung's centre from the midline
    lung_a: float  # half width of a lung
    lung_top: float
    dome_right: float  # y of the diaphragm's dome
    dome_left: float
    heart_width: float
    heart_height: float
    rib_gap: float
    rib_phase: float
    rib_slope: float
    tilt: float
    exposure: float
    fat: float


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one patient. Ranges are narrow: phantoms differ as adults do, findings differ more."""
    dome = rng.uniform(0.36, 0.44)
    return Anatomy(
        lung_x=rng.uniform(0.39, 0.42),
        lung_a=rng.uniform(0.33, 0.37),
        lung_top=rng.uniform(-0.86, -0.79),
        dome_right=dome,
        dome_left=dome + rng.uniform(0.05, 0.09),
        heart_width=rng.uniform(0.27, 0.305),
        heart_height=rng.uniform(0.30, 0.33),
        rib_gap=rng.uniform(0.155, 0.175),
        rib_phase=rng.uniform(0.0, 0.1),
        rib_slope=rng.uniform(0.16, 0.24),
        tilt=rng.uniform(-0.02, 0.02),
        exposure=rng.uniform(0.94, 1.06),
        fat=rng.uniform(0.0, 0.06),
    )


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Image, Image]:
    """x and y of every pixel's centre; read-only, since it is shared."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    x.flags.writeable = y.flags.writeable = False
    return x, y


def soft(distance: Image, width: float) -> Image:
    """A mask that goes from 0 to 1 where ``distance`` (positive inside) crosses zero, over about ``width``.

    The width never falls below a pixel's, so that an edge stays smooth at any film size.
    """
    pixel = 2.0 / distance.shape[-1]
    return np.clip(distance / max(width, pixel) + 0.5, 0.0, 1.0)


def sign(side: str) -> float:
    """+1 for the patient's left (x > 0 on the film), -1 for the right."""
    return 1.0 if side == "left" else -1.0


def dome(anatomy: Anatomy, side: str, size: int) -> Image:
    """y of the diaphragm under each x on one side: a dome that falls to the costophrenic angle."""
    x, _ = grid(size)
    top = anatomy.dome_left if side == "left" else anatomy.dome_right
    u = (np.abs(x) - 0.32) / 0.42
    return top + np.where(u > 0, 0.22, 0.13) * u * u


def lung_distance(anatomy: Anatomy, side: str, size: int, shrink: float = 1.0) -> Image:
    """Signed distance-like field of a lung: positive inside; ``shrink`` < 1 collapses it towards its hilum."""
    x, y = grid(size)
    hilum_x, hilum_y = 0.20, 0.0
    u = (np.abs(x) - hilum_x) / shrink + hilum_x
    v = (y - hilum_y) / (0.35 + 0.65 * shrink) + hilum_y
    # Wider at the base than at the apex, as lungs are.
    half = anatomy.lung_a * (0.80 + 0.22 * np.clip((v - anatomy.lung_top) / 1.3, 0, 1.2))
    ry = 0.5 * (0.95 - anatomy.lung_top) + 0.12
    cy = anatomy.lung_top + ry
    r = (np.abs((u - anatomy.lung_x) / half) ** 2.6 + np.abs((v - cy) / ry) ** 2.6) ** (1 / 2.6)
    inside = (1 - r) * anatomy.lung_a * shrink
    below = dome(anatomy, side, size) - (v if shrink == 1.0 else y)
    on_side = sign(side) * x
    return np.minimum(np.minimum(inside, below), on_side)


def lung_mask(anatomy: Anatomy, side: str, size: int, shrink: float = 1.0) -> Image:
    """Where a lung is, 0 to 1."""
    return soft(lung_distance(anatomy, side, size, shrink), 0.05)


def heart_mask(anatomy: Anatomy, size: int, scale: float = 1.0) -> Image:
    """Where the heart is; ``scale`` widens it, mostly to the patient's left, with its floor kept on the diaphragm."""
    x, y = grid(size)
    wide = anatomy.heart_width * scale
    high = anatomy.heart_height * (0.72 + 0.28 * scale)
    cx = 0.10 + 0.50 * (wide - anatomy.heart_width)
    cy = anatomy.dome_left + 0.09 - 0.92 * high
    u, v = x - cx, y - cy
    angle = 0.42
    p = u * np.cos(angle) + v * np.sin(angle)
    q = -u * np.sin(angle) + v * np.cos(angle)
    r = np.sqrt((p / (wide * 1.08)) ** 2 + (q / (high * 0.92)) ** 2)
    return soft((1 - r) * anatomy.heart_width, 0.06)


def chest_shadow(anatomy: Anatomy, size: int, heart_scale: float = 1.0) -> Image:
    """The attenuation of a chest without findings, up to the size of its heart."""
    x, y = grid(size)
    left, right = lung_mask(anatomy, "left", size), lung_mask(anatomy, "right", size)
    lungs = np.maximum(left, right)
    shoulder = 0.99 - 0.62 * np.clip((-0.55 - y) / 0.5, 0, 1) ** 1.6
    body = soft(shoulder - np.abs(x), 0.10)
    neck = soft(0.22 - np.abs(x), 0.10)
    body = np.maximum(body, neck)
    depth = 0.50 + anatomy.fat + 0.10 * y - 0.10 * np.clip(np.abs(x) - 0.75, 0, 1) / 0.25
    shadow = body * depth

    # Below the diaphragm: liver and, on the left, stomach with its bubble of gas.
    liver = soft(y - np.where(x > 0, dome(anatomy, "left", size), dome(anatomy, "right", size)), 0.05)
    shadow = shadow + 0.12 * liver * body
    bubble = soft(0.11 - np.hypot((x - 0.36) / 1.3, y - anatomy.dome_left - 0.20), 0.06)
    shadow = shadow - 0.10 * bubble

    shadow = shadow - lungs * (0.40 + 0.05 * np.clip(0.2 - y, 0, 1))
    shadow = shadow + _ribs(anatomy, size) * body * (1 - 0.8 * liver)
    shadow = shadow + _clavicles(size)
    shadow = shadow + lungs * _vessels(size) * (1 - 0.7 * heart_mask(anatomy, size, heart_scale))

    spine = soft(0.085 - np.abs(x - anatomy.tilt * y), 0.05)
    discs = 0.75 + 0.25 * np.cos(y * 2 * np.pi / 0.17)
    shadow = shadow + 0.10 * spine * discs
    upper = soft(0.15 + 0.03 * np.cos(5 * y) - np.abs(x - 0.01), 0.06) * soft(0.35 - y, 0.2)
    knob = soft(0.095 - np.hypot(x - 0.135, y + 0.30), 0.05)
    heart = heart_mask(anatomy, size, heart_scale)
    mediastinum = np.maximum(np.maximum(0.8 * upper, 0.85 * knob), heart)
    # Where the lung is behind it, the heart replaces the air; elsewhere it is one soft tissue among others.
    shadow = shadow + mediastinum * (0.34 * lungs + 0.06)
    trachea = soft(0.05 - np.abs(x), 0.03) * soft(-0.32 - y, 0.1)
    return np.asarray(shadow - 0.10 * trachea)


def _ribs(anatomy: Anatomy, size: int) -> Image:
    x, y = grid(size)
    ax = np.abs(x)
    cage = soft(0.80 + 0.06 * y - ax, 0.08) * soft(ax - 0.09, 0.05) * soft(0.72 - y, 0.3)
    out = np.zeros_like(x)
    for k in range(9):
        start = -0.80 + anatomy.rib_phase + k * anatomy.rib_gap
        bow = anatomy.rib_slope * (0.5 + 0.12 * k)
        back = start - 0.05 * np.sin(np.pi * np.clip(ax / 0.6, 0, 1)) + 2.2 * bow * np.clip(ax - 0.25, 0, 1) ** 2
        band = np.abs(y - back)
        # A rib's rims are denser than its marrow, which is what makes it look like bone.
        out += 0.070 * soft(0.030 - band, 0.018) + 0.045 * soft(0.012 - np.abs(band - 0.028), 0.012)
        front = start + 0.30 - 0.55 * (ax - 0.25)
        out += 0.030 * soft(0.026 - np.abs(y - front), 0.02) * soft(ax - 0.32, 0.1)
    return out * cage


def _clavicles(size: int) -> Image:
    x, y = grid(size)
    ax = np.abs(x)
    line = -0.66 - 0.20 * (ax - 0.1) - 0.05 * np.sin(6.5 * ax)
    return 0.13 * soft(0.034 - np.abs(y - line), 0.02) * soft(ax - 0.10, 0.04) * soft(0.80 - ax, 0.06)


@lru_cache(maxsize=8)
def _vessels(size: int) -> Image:
    """Branches that leave each hilum and thin out towards the periphery."""
    x, y = grid(size)
    ax = np.abs(x)
    out = 0.12 * np.exp(-(((ax - 0.19) / 0.09) ** 2 + ((y - 0.0) / 0.15) ** 2)).astype(np.float32)
    for slope, weight in ((-2.2, 0.05), (-1.1, 0.06), (-0.35, 0.05), (0.3, 0.06), (0.9, 0.07), (1.9, 0.07)):
        t = ax - 0.13
        away = np.abs(y - slope * t - 0.25 * slope * t * t) / np.sqrt(1 + slope * slope)
        reach = np.hypot(t, y)
        width = np.clip(0.032 - 0.04 * reach, 0.008, 1)
        out += (
            weight
            * soft(width - away, 0.02)
            * np.clip(1 - reach / 0.68, 0, 1)
            * np.clip(reach / 0.12 - 0.6, 0, 1)
            * (t > 0)
        )
    out.flags.writeable = False
    return out
