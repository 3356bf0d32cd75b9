import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from canonkit.data.batches import LengthBatches

BATCH = 64
lengths = st.lists(st.integers(1, 29), min_size=7, max_size=200).map(torch.tensor)


@pytest.fixture(scope="module")
def train_sizes(qm9):
    return qm9.part("train").sizes


def same(a, b):
    return len(a) == len(b) and all(x.equal(y) for x, y in zip(a, b, strict=True))


@given(lengths, st.integers(1, 7), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_sees_every_molecule_once_in_full_batches(sizes, batch_size, seed, epoch):
    batches = LengthBatches(sizes, batch_size, seed)
    drawn = batches.epoch(epoch)
    assert torch.cat(drawn).sort().values.equal(torch.arange(len(sizes)))
    assert len(drawn) == len(batches)
    assert sorted(len(b) == batch_size for b in drawn)[1:] == [True] * (len(drawn) - 1)


def test_next_to_nothing_of_qm9_is_padding(train_sizes):
    drawn = LengthBatches(train_sizes, BATCH).epoch(0)
    padded = sum(int(train_sizes[b].max()) * len(b) for b in drawn)
    assert 1 <= padded / int(train_sizes.sum()) < 1.01


def test_an_epoch_is_a_pure_function_of_seed_and_number(train_sizes):
    sizes = train_sizes[:5000]
    batches = LengthBatches(sizes, BATCH, seed=1)
    first = batches.epoch(2)
    torch.rand(3)  # the global stream has no say
    batches.epoch(5)
    assert same(batches.epoch(2), first)
    assert same(LengthBatches(sizes, BATCH, seed=1).epoch(2), first)
    assert not same(batches.epoch(3), first)
    assert not same(LengthBatches(sizes, BATCH, seed=2).epoch(2), first)


def test_batches_come_in_no_order_of_length(train_sizes):
    means = torch.stack([train_sizes[b].double().mean() for b in LengthBatches(train_sizes, BATCH).epoch(0)])
    position = torch.arange(len(means), dtype=torch.float64)
    assert torch.corrcoef(torch.stack([means, position]))[0, 1].abs() < 4 / len(means) ** 0.5


@given(lengths, st.integers(1, 7), st.integers(0, 90))
def test_a_run_resumed_at_any_step_continues_exactly(sizes, batch_size, step):
    batches = LengthBatches(sizes, batch_size)
    whole = list(itertools.islice(batches.from_step(0), step + 40))
    assert same(whole[step:], list(itertools.islice(batches.from_step(step), 40)))
    assert same(whole[: len(batches)], batches.epoch(0)[: len(whole)])


@pytest.mark.parametrize("batch_size", [0, -1, 8])
def test_a_batch_size_that_cannot_be_filled_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} is not between 1 and the 7 molecules"):
        LengthBatches(torch.arange(1, 8), batch_size)
