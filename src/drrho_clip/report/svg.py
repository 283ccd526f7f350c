"""A plot as an SVG file of its own."""

from __future__ import annotations

from drrho_clip.report.page import templates
from drrho_clip.report.plots import FRAME, Plot


def to_svg(plot: Plot) -> str:
    """Return a plot as SVG: styles inside, a legend below, and its description for those who cannot see it."""
    return templates().get_template("plot.svg.j2").render(plot=plot, frame=FRAME)
