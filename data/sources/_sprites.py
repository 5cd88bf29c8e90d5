"""Small shapes with smooth edges, for generated pictures."""

from __future__ import annotations

from functools import cache

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")

_OVERSAMPLING = 4


@cache
def sprite(shape: str, side: int) -> np.ndarray:
    """How much of each pixel the shape covers, [side, side] in 0..1 (drawn finer and averaged, for smooth edges)."""
    fine = side * _OVERSAMPLING
    axis = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(axis, axis)
    inside = _inside(shape, x, y).astype(np.float32)
    return inside.reshape(side, _OVERSAMPLING, side, _OVERSAMPLING).mean(axis=(1, 3))


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points of the square -1..1 (y down) belong to the shape."""
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.86
    if shape == "triangle":
        return np.abs(x) <= (y + 1) / 2
    if shape == "diamond":
        return np.abs(x) / 0.75 + np.abs(y) <= 1
    if shape == "cross":
        return (np.minimum(np.abs(x), np.abs(y)) <= 0.3) & (np.maximum(np.abs(x), np.abs(y)) <= 1)
    if shape == "star":
        angle = np.abs(
            (np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
        )  # 0 at a tip, pi/5 in a notch
        radius = np.hypot(x, y)
        tip, notch = np.array([1.0, 0.0]), 0.42 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
        along, across = radius * np.cos(angle), radius * np.sin(angle)
        edge = notch - tip
        return (
            edge[0] * across - edge[1] * (along - tip[0]) >= 0
        )  # on the centre's side of the edge tip-notch
    raise ValueError(f"no shape {shape!r}; known: {', '.join(SHAPES)}")
