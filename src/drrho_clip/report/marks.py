"""The marks of a plot's points: a shape per colour, so that curves are told apart in print and without colour vision."""

from __future__ import annotations

import math

RADIUS = 4.0


def mark(number: int, x: float, y: float) -> str:
    """The outline of shape `number` around (x, y) as an SVG path."""
    corners, turn, inner = SHAPES[number % len(SHAPES)]
    points = []
    for corner in range(corners):
        radius = RADIUS * (inner if corner % 2 else 1.0)
        angle = math.pi * (turn + 2 * corner / corners)
        points.append(f"{x + radius * math.sin(angle):.1f},{y - radius * math.cos(angle):.1f}")
    return "M" + "L".join(points) + "Z"


SHAPES = (
    (24, 0.0, 1.0),
    (4, 0.25, 1.0),
    (3, 0.0, 1.0),
    (4, 0.0, 1.0),
    (3, 1.0, 1.0),
    (8, 0.0, 0.35),
    (8, 0.25, 0.35),
    (10, 0.0, 0.45),
    (5, 1.0, 1.0),
    (6, 0.0, 0.3),
)
"""Corners, turn in half circles, and radius of every second corner: disc, square, triangle, diamond, triangle upside down, star
of four, the same turned, star of five, pentagon, star of three."""
