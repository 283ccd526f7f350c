"""Curves of a run as drawing instructions: everything is computed here, the template draws it as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from drrho_clip.report.marks import mark
from drrho_clip.report.results import Metrics

WIDTH, HEIGHT = 560, 280  # the SVG's own units, about one CSS pixel each on a wide screen
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40
FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
COLOURS = 10  # colour classes of the style sheet: one for each method
MAX_POINTS = 400
MAX_TICKS = 9
SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
STRAIGHT_SPAN = 2.0  # a narrower logarithmic axis has no ticks of its own, and a straight one looks the same
LOG_SPAN = 30.0  # a positive series whose largest value is this many times its smallest gets a logarithmic axis

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One line of a plot: whose it is, its colour class (a number), its points in data units, and what its stroke stands for."""

    label: str
    colour: int
    points: Points
    style: str = ""
    dashed: bool = False
    marked: bool = False  # a mark of the colour's own shape at every point, so that it is told apart without colour
    errors: Sequence[float] = ()  # half the height of each point's error bar; none where empty
    joined: bool = True  # by a line
    hollow: bool = False  # marks


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
    marks: tuple[str, ...] = ()  # outlines, to be filled
    bars: tuple[str, ...] = ()  # error bars
    hollow: bool = False


@dataclass(frozen=True)
class Plot:
    """One figure, ready to draw; the legend has an entry per colour, then one per style where a dash tells any apart."""

    title: str
    unit: str
    note: str
    x_label: str
    lines: tuple[Line, ...]
    colours: tuple[tuple[int, str], ...]
    styles: tuple[tuple[bool, str], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    @property
    def key_marks(self) -> dict[int, str]:
        """The mark of each colour whose curve has marks, for a legend key of 22 x 8."""
        return {line.colour: mark(line.colour, 11, 4) for line in self.lines if line.marks}

    @property
    def description(self) -> str:
        """What the figure shows, in words."""
        return f"{self.title} against {self.x_label}. " + " ".join(line.summary for line in self.lines)


@dataclass(frozen=True)
class _Panel:
    """What a figure shows: the record key of its solid lines and of its dashed ones, each with its name."""

    title: str
    unit: str
    note: str
    solid: tuple[str, str]
    dashed: tuple[str, str] = ("", "")
    from_zero: bool = False


def _variance_panel(side: str) -> _Panel:
    return _Panel(
        f"Variance of the pairwise losses, {side} side",
        "",
        "The lower Var(l − l_ref) is against Var(l), the more the reference explains.",
        (f"pairwise_loss_variance.{side}.rho", "Var(l − l_ref)"),
        (f"pairwise_loss_variance.{side}.target", "Var(l)"),
    )


PANELS = (
    _variance_panel("image"),
    _variance_panel("text"),
    _Panel("Loss", "", "Methods minimise different objectives: compare shapes, not heights.", ("loss", "")),
    _Panel("Temperature", "", "One over the logit scale; constant unless the method learns it.", ("temperature", "")),
    _Panel(
        "Effective negatives",
        "per anchor",
        "One over the sum of the squared weights of an anchor's negatives: few where the hardest count alone.",
        ("weight_effective_size.image", "image side"),
        ("weight_effective_size.text", "text side"),
    ),
    _Panel("Gamma", "", "Weight of the batch in the moving average u of each sample.", ("gamma", ""), from_zero=True),
    _Panel("Learning rate", "", "Of the last step before each record.", ("learning_rate", ""), from_zero=True),
    _Panel(
        "Throughput",
        "samples / s",
        "All processes together, over each logged interval.",
        ("samples_per_second", ""),
        from_zero=True,
    ),
)


def training_plots(runs: Sequence[tuple[str, Metrics]]) -> list[Plot]:
    """Return a plot per panel that at least one of the `runs` (label, records) has values for; run number i has colour i."""
    by_samples = all("samples_total" in record for _, metrics in runs for record in metrics.records)
    x_key, x_label = ("samples_total", "samples seen") if by_samples else ("step", "step")
    plots = []
    for panel in PANELS:
        curves = [
            Curve(label, number % COLOURS, points, name, key == panel.dashed[0])
            for number, (label, metrics) in enumerate(runs)
            for key, name in (panel.solid, panel.dashed)
            if (points := metrics.series(key, against=x_key))
        ]
        if curves:
            plots.append(draw(curves, title=panel.title, unit=panel.unit, note=panel.note, x_label=x_label, zero=panel.from_zero))
    return plots


def draw(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    unit: str = "",
    note: str = "",
    zero: bool = False,
    logarithmic: bool = False,
) -> Plot:
    """Scale non-empty `curves` of finite numbers to one plot; long ones are averaged down to MAX_POINTS points.

    `logarithmic` makes both axes so, but a y axis of less than STRAIGHT_SPAN; else that is where the numbers span LOG_SPAN.
    """
    thinned = [thin(curve.points) for curve in curves]
    xs = [x for points in thinned for x, _ in points]
    ys = [y for points in thinned for _, y in points] + [end for curve in curves for bar in _bars(curve) for _, end in bar]
    across = (LEFT, WIDTH - RIGHT)
    x_axis = _log_axis(min(xs), max(xs), *across) if logarithmic else _linear_axis(min(0.0, *xs), max(xs), *across, tight=True)
    low = min(0.0, *ys) if zero else min(ys)
    logarithmic = not zero and low > 0 and max(ys) / low >= (STRAIGHT_SPAN if logarithmic else LOG_SPAN)
    y_axis = (_log_axis if logarithmic else _linear_axis)(low, max(ys), HEIGHT - BOTTOM, TOP)
    lines = tuple(
        Line(
            " ".join((c.label, c.style)).rstrip(),
            c.colour,
            c.dashed,
            _path(points, x_axis, y_axis) if c.joined else "",
            _in_words(c),
            tuple(mark(c.colour, x_axis.place(x), y_axis.place(y)) for x, y in points) if c.marked else (),
            tuple(_path(bar, x_axis, y_axis) for bar in _bars(c)),
            c.hollow,
        )
        for c, points in zip(curves, thinned, strict=True)
    )
    styles = tuple(dict.fromkeys((curve.dashed, curve.style) for curve in curves if curve.style))
    return Plot(
        title,
        ", ".join(filter(None, (unit, "log scale" if logarithmic else ""))),
        note,
        x_label,
        lines,
        tuple(dict.fromkeys((curve.colour, curve.label) for curve in curves)),
        styles if any(dashed for dashed, _ in styles) else (),
        x_axis.ticks(),
        y_axis.ticks(),
    )


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
        labels = [tick_labels([value])[0] for value in self.values] if self.logarithmic else tick_labels(self.values)
        return tuple(Tick(round(self.place(value), 1), label) for value, label in zip(self.values, labels, strict=True))


def _linear_axis(low: float, high: float, start: float, end: float, *, tight: bool = False) -> _Axis:
    """About five round ticks; the axis ends at the outer ones, or (`tight`) at the data."""
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * next(m for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    inside, outside = (math.ceil, math.floor) if tight else (math.floor, math.ceil)
    first, last = (
        inside(low / step - 1e-9 if tight else low / step + 1e-9),
        outside(high / step + 1e-9 if tight else high / step - 1e-9),
    )
    values = tuple(i * step for i in range(first, last + 1))
    return _Axis(low, high, start, end, values) if tight else _Axis(values[0], values[-1], start, end, values)


def _log_axis(low: float, high: float, start: float, end: float) -> _Axis:
    """Ticks at 1, 2, 5 of each decade, or at fewer of them where that would be many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for marks, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), math.ceil((last - first) / (MAX_TICKS - 2)))):
        grid = [mark * 10.0**decade for decade in range(first, last + stride + 1, stride) for mark in marks]
        below, above = max(v for v in grid if v <= low), min(v for v in grid if v >= high)
        values = tuple(v for v in grid if below <= v <= above)
        if len(values) <= MAX_TICKS:
            break
    return _Axis(below, above, start, end, values, logarithmic=True)


def tick_labels(values: Sequence[float]) -> list[str]:
    """Short numbers (20M, 1.5k, 0.05) with as many digits as it takes to tell rising `values` apart exactly enough."""
    tolerance = 0.01 * min((b - a for a, b in pairwise(values)), default=abs(values[0]))
    size, suffix = next(((s, x) for s, x in SUFFIXES if max(map(abs, values)) >= s), (1.0, ""))
    for digits in range(3, 17):
        numbers = [f"{value / size:.{digits}g}" for value in values]
        if all(abs(float(number) * size - value) <= tolerance for number, value in zip(numbers, values, strict=True)):
            break
    return ["0" if float(number) == 0 else number + suffix for number in numbers]


def _bars(curve: Curve) -> list[Points]:
    """The lower and upper end of each error bar; curves with errors are short, and are not thinned."""
    if not curve.errors:
        return []
    return [((x, y - error), (x, y + error)) for (x, y), error in zip(curve.points, curve.errors, strict=True) if error > 0]


def _path(points: Points, x_axis: _Axis, y_axis: _Axis) -> str:
    pairs = [f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in points]
    if len(pairs) == 1:
        pairs *= 2  # a round line cap makes a dot of it
    return "M" + "L".join(pairs)


def _in_words(curve: Curve) -> str:
    values = [value for _, value in curve.points]
    name = " ".join((curve.label, curve.style)).rstrip()
    return f"{name}: from {values[0]:.3g} to {values[-1]:.3g}, between {min(values):.3g} and {max(values):.3g}."
