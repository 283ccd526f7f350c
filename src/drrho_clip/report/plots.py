"""Curves of a run as drawing instructions: everything is computed here, the template draws it as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drrho_clip.report.results import Metrics

WIDTH, HEIGHT = 560, 280  # the SVG's own units, about one CSS pixel each on a wide screen
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40
MAX_POINTS = 400
LOG_SPAN = 30.0  # a positive series whose largest value is this many times its smallest gets a logarithmic axis

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One line of a plot: its points in data units, its colour class (a number) and whether it is dashed."""

    label: str
    colour: int
    points: Points
    dashed: bool = False


@dataclass(frozen=True)
class Tick:
    """A grid line: its place in the SVG and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A curve as SVG coordinates."""

    label: str
    colour: int
    dashed: bool
    path: str
    summary: str


@dataclass(frozen=True)
class Plot:
    """One figure, ready to draw."""

    title: str
    note: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    @property
    def description(self) -> str:
        """What the figure shows, in words."""
        return f"{self.title}, {self.y_label} against {self.x_label}. " + " ".join(line.summary for line in self.lines)


@dataclass(frozen=True)
class _Panel:
    """What a figure shows: `keys` are record keys, drawn solid, except those in `dashed`."""

    title: str
    y_label: str
    note: str
    keys: Mapping[str, str]  # record key -> what is added to the run's label
    dashed: frozenset[str] = frozenset()
    from_zero: bool = False


def _variance_panel(side: str) -> _Panel:
    target, rho = f"pairwise_loss_variance.{side}.target", f"pairwise_loss_variance.{side}.rho"
    return _Panel(
        f"Variance of the pairwise losses, {side} side",
        "variance",
        "Solid: minus the reference's loss, Var(l \N{MINUS SIGN} l_ref). Dashed: of the model alone, Var(l).",
        {rho: "Var(l \N{MINUS SIGN} l_ref)", target: "Var(l)"},
        frozenset({target}),
    )


PANELS = (
    _Panel("Loss", "objective", "Methods minimise different objectives: compare shapes, not heights.", {"loss": ""}),
    _variance_panel("image"),
    _variance_panel("text"),
    _Panel("Temperature", "temperature", "One over the logit scale; constant unless the method learns it.", {"temperature": ""}),
    _Panel(
        "Throughput",
        "samples / s",
        "All processes together, over each logged interval.",
        {"samples_per_second": ""},
        from_zero=True,
    ),
    _Panel("Learning rate", "learning rate", "After warm-up it falls along a cosine.", {"learning_rate": ""}, from_zero=True),
    _Panel("Gamma", "gamma", "Weight of the batch in the moving average u of each sample.", {"gamma": ""}, from_zero=True),
)


def training_plots(runs: Sequence[tuple[str, Metrics]]) -> list[Plot]:
    """Return a plot per panel that at least one of the `runs` (label, records) has values for; run number i has colour i."""
    by_samples = all("samples_total" in record for _, metrics in runs for record in metrics.records)
    x_key, x_label = ("samples_total", "samples seen") if by_samples else ("step", "step")
    plots = []
    for panel in PANELS:
        curves = [
            Curve(" ".join(filter(None, (label, suffix))), number, points, key in panel.dashed)
            for number, (label, metrics) in enumerate(runs)
            for key, suffix in panel.keys.items()
            if (points := metrics.series(key, against=x_key))
        ]
        if curves:
            plots.append(
                draw(curves, title=panel.title, note=panel.note, x_label=x_label, y_label=panel.y_label, zero=panel.from_zero)
            )
    return plots


def draw(curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, note: str = "", zero: bool = False) -> Plot:
    """Scale non-empty `curves` of finite numbers to one plot; long ones are averaged down to MAX_POINTS points."""
    thinned = [thin(curve.points) for curve in curves]
    xs = [x for points in thinned for x, _ in points]
    ys = [y for points in thinned for _, y in points]
    x_axis = _linear_axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    low = min(0.0, *ys) if zero else min(ys)
    logarithmic = not zero and low > 0 and max(ys) / low >= LOG_SPAN
    y_axis = (_log_axis if logarithmic else _linear_axis)(low, max(ys), HEIGHT - BOTTOM, TOP)
    lines = tuple(
        Line(curve.label, curve.colour, curve.dashed, _path(points, x_axis, y_axis), _in_words(curve.label, curve.points))
        for curve, points in zip(curves, thinned, strict=True)
    )
    y_label += " (log scale)" if logarithmic else ""
    return Plot(title, note, x_label, y_label, lines, x_axis.ticks(), y_axis.ticks())


def thin(points: Points, limit: int = MAX_POINTS) -> Points:
    """Average neighbouring points so that at most `limit` remain."""
    group = math.ceil(len(points) / limit)
    if group <= 1:
        return points
    groups = [points[i : i + group] for i in range(0, len(points), group)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


@dataclass(frozen=True)
class _Axis:
    """Maps data from `low`..`high` to the SVG's `start`..`end`, straight or by logarithm, with ticks at round `values`."""

    low: float
    high: float
    start: float
    end: float
    values: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        share = ((math.log(value) if self.logarithmic else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> tuple[Tick, ...]:
        return tuple(Tick(round(self.place(value), 1), tick_label(value)) for value in self.values)


def _linear_axis(low: float, high: float, start: float, end: float) -> _Axis:
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * next(m for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    values = tuple(i * step for i in range(first, last + 1))
    return _Axis(values[0], values[-1], start, end, values)


def _log_axis(low: float, high: float, start: float, end: float) -> _Axis:
    """Ticks at 1, 2, 5 per decade, or at decades alone where that would be many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = (1, 2, 5) if len(decades) <= 3 else (1,)
    grid = [mark * 10.0**decade for decade in decades for mark in marks]
    below = max((v for v in grid if v <= low), default=grid[0])
    above = min((v for v in grid if v >= high), default=grid[-1])
    return _Axis(below, above, start, end, tuple(v for v in grid if below <= v <= above), logarithmic=True)


def tick_label(value: float) -> str:
    """A short number: 20M, 1.5k, 0.05, 1e-05."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def _path(points: Points, x_axis: _Axis, y_axis: _Axis) -> str:
    pairs = [f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in points]
    if len(pairs) == 1:
        pairs *= 2  # a round line cap makes a dot of it
    return "M" + "L".join(pairs)


def _in_words(label: str, points: Points) -> str:
    values = [value for _, value in points]
    return f"{label}: from {values[0]:.3g} to {values[-1]:.3g}, between {min(values):.3g} and {max(values):.3g}."
