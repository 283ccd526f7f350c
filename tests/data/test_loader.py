"""What a data worker keeps of earlier epochs."""

from __future__ import annotations

import pickle

import torch
from PIL import Image

from drrho_clip.data.loader import LEAST_CACHE, Kept, Loaded, sample_cache

SIZE = 3 * 8 * 8 + 4 * 8  # bytes of a picture of 8 pixels and of four tokens


class Source:
    """Counts how often a sample is loaded; sample 3 has no picture."""

    def __init__(self) -> None:
        self.loads: list[int] = []

    def __call__(self, index: int) -> Loaded:
        self.loads.append(index)
        return (None if index == 3 else Image.new("RGB", (8, 8), (index, 0, 0))), torch.full((4,), index)


def test_what_fits_is_loaded_once_and_the_rest_every_time():
    kept, source = Kept(4 * SIZE + 32), Source()
    first = [kept.get(index, source) for index in range(7)]
    again = [kept.get(index, source) for index in range(7)]
    assert source.loads == [*range(7), 5, 6]  # what is kept of the sample without a picture is 32 bytes
    for one, two in zip(first, again, strict=True):
        assert one[1].tolist() == two[1].tolist()
        assert (one[0] is None) == (two[0] is None)
    assert kept.size <= kept.limit


def test_a_worker_starts_with_nothing():
    kept, source = Kept(10 * SIZE), Source()
    kept.get(1, source)
    sent = pickle.loads(pickle.dumps(kept))
    assert (sent.limit, sent.size) == (10 * SIZE, 0)
    sent.get(1, source)
    assert source.loads == [1, 1]


def test_data_workers_share_an_eighth_of_the_memory_and_have_some_where_it_is_little():
    gib = 2**30
    assert sample_cache(workers=0, processes=1, memory=24 * gib) == 3 * gib
    assert sample_cache(workers=4, processes=2, memory=64 * gib) == gib
    assert sample_cache(workers=8, processes=8, memory=16 * gib) == LEAST_CACHE
