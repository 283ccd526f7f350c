"""What a study says, in sentences with numbers; nothing is said that its intervals do not carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drrho_clip.studies.matrix import uses_reference
from drrho_clip.studies.results import ArmResult, StudyResult, grouped
from drrho_clip.studies.statistics import Difference, Estimate, Reach


def claims(result: StudyResult) -> Iterator[str]:
    """The sentences of a study, the most important first; none while the baseline has no finished run."""
    baseline = result.baseline
    if baseline is None:
        yield "No run of the baseline is finished yet, so that nothing can be said."
    elif result.plan.kind == "data_efficiency":
        yield from _efficiency(result, baseline)
    elif result.plan.kind == "scaling":
        yield from _scaling(result)
    else:
        if result.plan.kind == "weak_to_strong":
            yield from _above_reference(result)
        yield from _compared(result, baseline)


def percent(found: Estimate) -> str:
    """A share as 31.2 ± 0.6, in %."""
    return f"{100 * found.mean:.1f}" + ("" if found.error is None else f" ± {100 * found.error:.1f}")


def spread(found: Difference) -> str:
    """A difference of shares with its interval, in percentage points."""
    if found.low is None or found.high is None:
        return _signed(found.mean)
    return f"{_signed(found.mean)} ({_signed(found.low)} to {_signed(found.high)})"


def fraction(found: Reach) -> str:
    """Where a level is reached, with the interval of the resamples."""
    if found.fraction is None:
        return "not reached"
    text = f"{'at most ' if found.at_most else ''}{100 * found.fraction:.0f}%"
    if found.low is None:
        return text
    high = "not reached" if found.high is None else f"{100 * found.high:.0f}%"
    return f"{text} ({100 * found.low:.0f}% to {high})"


def measure_name(measure: str) -> str:
    """mean_recall_at_5 as people write it."""
    side, recall, k = measure.partition("_recall_at_")
    sides = {"mean": "R@{} both ways", "image_to_text": "image→text R@{}", "text_to_image": "text→image R@{}"}
    if recall:
        return sides[side].format(k) + " %"
    top = measure.removeprefix("zero_shot_top_")
    return f"zero-shot top-{top} %" if top != measure else "zero-shot mean per class %"


def _compared(result: StudyResult, baseline: ArmResult) -> Iterator[str]:
    measure = result.measure
    for arm in result.arms:
        if arm is not baseline and (found := arm.differences.get(measure)):
            verdicts = {1: "better", -1: "worse", 0: "no difference that the seeds can tell"}
            yield f"{_pair(arm, baseline, measure)}: {_verdict(found, verdicts)}."


def _above_reference(result: StudyResult) -> Iterator[str]:
    measure, plan = result.measure, result.plan
    steered = [arm for arm in result.arms if uses_reference(arm.method, plan.study, plan.train)]
    best = max(steered, key=lambda arm: arm.means[measure].mean, default=None)
    for reference in result.references:
        if best is not None and measure in reference.values:
            seen, own = _samples(reference.values), reference.values[measure]
            ahead = 100 * (best.means[measure].mean - own)
            yield (
                f"The reference ({reference.model}{seen}) reaches {100 * own:.1f}; {best.arm.label}, which it steers, "
                f"{percent(best.means[measure])}{_samples(_plain(best))}: {abs(ahead):.1f} points "
                f"{'above' if ahead > 0 else 'below'} it."
            )


def _efficiency(result: StudyResult, baseline: ArmResult) -> Iterator[str]:
    measure = result.measure
    level = f"what {_method(baseline)} reaches with all of the data ({percent(baseline.means[measure])})"
    for group in grouped(result.arms, lambda arm: (arm.method, arm.runs[0].reference)):
        found = group[0].reach
        if found is None or baseline in group:
            continue
        name = _method(group[0])
        if found.fraction is None:
            yield f"{name} does not reach {level}."
            continue
        enough = next(arm for arm in group if arm.data_fraction >= found.fraction - 1e-9)
        seeds = "" if found.low is None else "; 95% of the resamples of the seeds in brackets"
        yield f"{name} reaches {level} with {fraction(found)} of it{seeds}."
        if (difference := enough.differences.get(measure)) is None:
            continue
        verdict = _verdict(difference, {1: "surpassed", -1: "missed", 0: "matched"})
        yield (
            f"{name} with {100 * enough.data_fraction:g}% of the data: {percent(enough.means[measure])}, "
            f"{_method(baseline)} with 100%: {percent(baseline.means[measure])}: {verdict}."
        )


def _scaling(result: StudyResult) -> Iterator[str]:
    for law in result.laws:
        if law.problem:
            yield f"{law.label} has no law: {law.problem}"
    laws = [law for law in result.laws if not law.problem]
    for law in laws:
        rest = f"{law.irreducible:.3f} + " if law.irreducible else ""
        exponent = f"{law.b:.3f}" + (f" ({law.b_interval.low:.3f} to {law.b_interval.high:.3f})" if law.b_interval else "")
        runs = f"{len(law.used)} runs, {len(law.left_out)} left out"
        yield f"{law.label}: error = {rest}{law.a:.3g} C^{exponent}, C in GFLOPs; {runs}."
    baseline = next((law for law in laws if law.is_baseline), None)
    for law in laws:
        if baseline is None or law is baseline:
            continue
        if law.steeper is None:
            ahead = f"{baseline.b - law.b:+.3f}"
            yield f"The exponents of {law.label} and {baseline.label} differ by {ahead}; the runs are too few for an interval."
        else:
            how = "steeper than" if law.steeper.low > 0 else "flatter than" if law.steeper.high < 0 else "not to be told from"
            ahead = f"{baseline.b - law.b:+.3f} ({law.steeper.low:+.3f} to {law.steeper.high:+.3f})"
            yield f"{law.label}'s law is {how} {baseline.label}'s: the exponents differ by {ahead}."
    for law in laws:
        for found in law.predictions:
            interval = f" ({100 * found.interval.low:.1f} to {100 * found.interval.high:.1f})" if found.interval else ""
            yield f"At {found.compute:.3g} GFLOPs {law.label} is expected to err in {100 * found.error:.1f}%{interval}."


def _verdict(found: Difference, words: Mapping[int, str]) -> str:
    if found.low is None:
        return f"difference {spread(found)}, one seed and therefore no interval"
    return f"{words[found.sign]} (difference and its 95% interval {spread(found)})"


def _pair(arm: ArmResult, baseline: ArmResult, measure: str) -> str:
    return f"{arm.arm.label}: {percent(arm.means[measure])}, {baseline.arm.label}: {percent(baseline.means[measure])}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _method(arm: ArmResult) -> str:
    return arm.arm.label.rpartition(", ")[0] if "data_fraction" in arm.arm.overrides else arm.arm.label


def _plain(arm: ArmResult) -> dict[str, float]:
    return {key: found.mean for key, found in arm.means.items()}


def _samples(values: Mapping[str, float]) -> str:
    return f", {values['samples_seen']:,.0f} samples seen" if "samples_seen" in values else ""
