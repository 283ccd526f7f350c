from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ingest_helpers import plan

from drrho_clip.data.order import SampleOrder
from drrho_clip.errors import ConfigError

PLANS = st.tuples(
    st.lists(st.integers(1, 90), min_size=1, max_size=6),
    st.sampled_from([(8, 0), (8, 8), (16, 8), (24, 8), (40, 8), (7, 0)]),
    st.integers(0, 2**40),
).filter(lambda drawn: sum(drawn[0]) >= drawn[1][0])


def epoch(order: SampleOrder, number: int) -> np.ndarray:
    steps = range(number * order.steps_per_epoch, (number + 1) * order.steps_per_epoch)
    return np.concatenate([order.batch(step) for step in steps])


@given(PLANS)
@settings(max_examples=60, deadline=None)
def test_every_sample_at_most_once_an_epoch_and_less_than_a_batch_is_dropped(drawn: tuple) -> None:
    counts, (batch_size, lanes), seed = drawn
    order = SampleOrder(plan(counts), seed=seed, batch_size=batch_size, lanes=lanes)
    for number in (0, 1):
        seen = epoch(order, number)
        assert len(np.unique(seen)) == len(seen)
        assert 0 <= seen.min() <= seen.max() < sum(counts)
        assert sum(counts) - len(seen) < batch_size


@given(PLANS)
@settings(max_examples=40, deadline=None)
def test_the_global_batch_is_the_same_for_every_number_of_processes(drawn: tuple) -> None:
    counts, (batch_size, _), seed = drawn
    batch_size *= 8
    counts = [count + batch_size for count in counts]
    order = SampleOrder(plan(counts), seed=seed, batch_size=batch_size, lanes=8)
    for step in (0, order.steps_per_epoch - 1, order.steps_per_epoch + 1):
        whole = order.batch(step)
        for world_size in (1, 2, 4, 8):
            parts = [order.batch(step, rank, world_size) for rank in range(world_size)]
            assert {len(part) for part in parts} == {batch_size // world_size}
            assert sorted(np.concatenate(parts)) == sorted(whole)


def test_a_batch_depends_on_nothing_that_was_asked_before() -> None:
    shards = plan([37, 21, 400, 5, 60])
    walked = SampleOrder(shards, seed=3, batch_size=16)
    in_order = [walked.batch(step) for step in range(3 * walked.steps_per_epoch)]
    for step in (90, 2, 40, 41, 0):
        np.testing.assert_array_equal(SampleOrder(shards, seed=3, batch_size=16).batch(step), in_order[step])
        np.testing.assert_array_equal(walked.batch(step), in_order[step])


def test_the_order_never_changes() -> None:
    """Literal indices: a change here breaks the resumption of every run."""
    order = SampleOrder(plan([37, 21, 40, 5, 60]), seed=1, batch_size=16)
    assert (order.lanes, order.steps_per_epoch) == (16, 10)
    assert order.batch(0).tolist() == GOLDEN_SMALL
    large = SampleOrder(plan([10_000] * 300), seed=7, batch_size=4096)
    assert large.lanes == 64
    assert large.batch(12_345)[[0, 1, 63, 64, 2000, 4095]].tolist() == GOLDEN_LARGE


GOLDEN_SMALL = [10, 82, 125, 109, 35, 149, 103, 2, 71, 143, 59, 45, 46, 12, 17, 28]
GOLDEN_LARGE = [2536479, 35807, 1337799, 897847, 546275, 2137290]


def test_epochs_seeds_and_remainders_differ() -> None:
    shards = plan([50, 50, 30])
    order = SampleOrder(shards, seed=0, batch_size=32)
    first, second = epoch(order, 0), epoch(order, 1)
    assert first.tolist() != second.tolist()
    assert epoch(SampleOrder(shards, seed=1, batch_size=32), 0).tolist() != first.tolist()
    dropped = [frozenset(range(130)) - set(epoch(order, number)) for number in range(4)]
    assert len(set(dropped)) > 1


def test_only_the_shards_of_the_split_are_used() -> None:
    shards = [shard for number, shard in enumerate(plan([20, 10, 20])) if number != 1]
    seen = epoch(SampleOrder(shards, seed=0, batch_size=8), 0)
    assert not set(seen) & set(range(20, 30))
    assert len(seen) == 40


@given(PLANS, st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_a_fraction_is_exact_and_lies_within_a_larger_one(drawn: tuple, fraction: float) -> None:
    counts, _, seed = drawn
    wanted = {share: round(sum(counts) * share) for share in (fraction, (1 + fraction) / 2)}
    assume(wanted[fraction] >= 1)
    small, large = (
        set(epoch(SampleOrder(plan(counts), seed=seed, batch_size=1, fraction=share), 0).tolist()) for share in wanted
    )
    assert [len(small), len(large)] == list(wanted.values())
    assert small < large
    other = epoch(SampleOrder(plan(counts), seed=seed + 1, batch_size=1, fraction=fraction), 3)
    assert set(other.tolist()) == small


def test_a_fraction_takes_from_every_part_of_the_data() -> None:
    half = epoch(SampleOrder(plan([1000] * 8), seed=0, batch_size=8, fraction=0.5), 0)
    tenths = np.bincount(half // 800, minlength=10)
    assert tenths.sum() == 4000
    assert tenths.min() > 300


def test_a_small_fraction_is_not_a_few_blocks_of_neighbours() -> None:
    """Data that lies sorted, by family say, would be represented by a few families."""
    order = SampleOrder(plan([4096] * 61), seed=0, batch_size=256, fraction=0.01)
    assert len(np.unique(epoch(order, 0) // 250)) > 400, "of 1,000 blocks, by 2,499 samples"
    runs, samples = order.open_chunks
    assert runs * samples == pytest.approx(order.samples, rel=0.01), "of so few all are open"


def test_samples_are_mixed_across_shards() -> None:
    order = SampleOrder(plan([1000] * 8), seed=0, batch_size=64)
    shards_in_batches = [len(np.unique(order.batch(step) // 1000)) for step in range(20)]
    assert min(shards_in_batches) >= 6


def test_epoch_of_counts_from_zero() -> None:
    order = SampleOrder(plan([100]), seed=0, batch_size=10)
    assert [order.epoch_of(step) for step in (0, 9, 10, 25)] == [0, 0, 1, 2]


def too_small() -> SampleOrder:
    return SampleOrder(plan([5]), seed=0, batch_size=8)


def lanes_do_not_divide() -> SampleOrder:
    return SampleOrder(plan([50]), seed=0, batch_size=8, lanes=3)


def too_many_processes() -> object:
    return SampleOrder(plan([50]), seed=0, batch_size=8).batch(0, 0, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (too_small, r"0 steps an epoch from 5 samples, global batch 8\. Set batch_size to at most 5"),
        (lanes_do_not_divide, "3 lanes do not divide the global batch of 8.*or to 0 for 8"),
        (too_many_processes, "3 processes cannot share 8 lanes.*multiples of 3"),
    ],
)
def test_what_cannot_be_shared_out_is_said(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


@pytest.fixture(scope="module")
def big() -> SampleOrder:
    return SampleOrder(plan([10_000] * 20_000), seed=0, batch_size=8192)


def test_two_hundred_million_samples_are_planned_at_once(big: SampleOrder) -> None:
    started = time.process_time()
    big.batch(20_000)
    big.batch(3)
    assert time.process_time() - started < 2.0  # a plan by sample would take minutes and gigabytes


def test_the_plan_is_small(big: SampleOrder) -> None:
    arrays = [value for value in vars(big).values() if isinstance(value, np.ndarray)]
    windows = [indices for _, indices in big._windows.values()]
    assert sum(array.nbytes for array in arrays + windows) < 32 * 2**20
