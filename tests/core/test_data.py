"""Law 6 (no leak), law 4's order of windows, and the masking of what is not there.

Corpora here are token arrays whose IDs are their own positions, so that where a token comes from can be read off it.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tinylm_core.config import RunConfig
from tinylm_core.corpus import Corpus, load_corpus
from tinylm_core.data import (
    IGNORED,
    WindowDataset,
    Windows,
    evenly_spaced,
    micro_batch,
    micro_batch_indices,
    train_eval_windows,
    train_windows,
    val_windows,
)


def corpus_of(num_train: int, num_val: int) -> Corpus:
    ids = np.arange(num_train + num_val, dtype=np.uint16)
    return Corpus(ids[:num_train], ids[num_train:], len(ids), None, "f" * 64, None)


def config_of(**fields: object) -> RunConfig:
    return RunConfig.model_validate({"data": "positions", "tokenizer": "ids", "eval_tokens": None} | fields)


def everything(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels of all windows, [W, T] each."""
    batch = windows.batch(np.arange(len(windows)))
    return batch.input_ids.numpy(), batch.labels.numpy()


sizes = st.integers(1, 20)


# --- Law 6


@given(max_seq_len=sizes, stride=st.none() | sizes, extra=st.integers(1, 200), num_val=st.integers(2, 200),
       max_tokens=st.none() | st.integers(2, 300), eval_tokens=st.none() | st.integers(1, 300))  # fmt: skip
def test_no_validation_position_is_a_training_position(
    max_seq_len: int, stride: int | None, extra: int, num_val: int, max_tokens: int | None, eval_tokens: int | None
) -> None:
    corpus = corpus_of(max_seq_len + extra, num_val)
    config = config_of(max_seq_len=max_seq_len, stride=stride, eval_tokens=eval_tokens)
    if max_tokens is not None and max_tokens > max_seq_len:
        config = config.replace({"max_tokens": max_tokens})
    for windows in (train_windows(corpus, config), train_eval_windows(corpus, config, 5)):
        assert max(part.max() for part in everything(windows)) < len(corpus.train)
        assert config.max_tokens is None or max(part.max() for part in everything(windows)) < config.max_tokens
    inputs, labels = everything(val_windows(corpus, config))
    assert min(inputs.min(), labels[labels != IGNORED].min()) >= len(corpus.train)


@pytest.mark.parametrize("stride", [1, 3, 8, 13])
def test_no_leak_from_file_to_windows(tmp_path: Path, stride: int) -> None:
    path = tmp_path / "positions.txt"
    path.write_text(" ".join(map(str, range(500))))
    config = config_of(data=str(path), max_seq_len=8, stride=stride, val_ratio=0.25)
    corpus = load_corpus(config)
    trained = {int(token) for part in everything(train_windows(corpus, config)) for token in part.flat}
    validated = {int(token) for part in everything(val_windows(corpus, config)) for token in part.flat} - {IGNORED}
    assert max(trained) < 375 <= min(validated)
    assert validated == set(range(375, 500))


# --- Training windows


@given(max_seq_len=sizes, stride=st.none() | sizes, extra=st.integers(1, 200))
def test_training_windows_are_all_the_full_ones_a_stride_apart(
    max_seq_len: int, stride: int | None, extra: int
) -> None:
    corpus = corpus_of(max_seq_len + extra, 2)
    inputs, labels = everything(train_windows(corpus, config_of(max_seq_len=max_seq_len, stride=stride)))
    step = stride or max_seq_len
    starts = [start for start in range(0, len(corpus.train), step) if start + max_seq_len < len(corpus.train)]
    assert inputs.tolist() == [list(range(start, start + max_seq_len)) for start in starts]
    assert (labels == inputs + 1).all()


def test_only_the_first_max_tokens_are_trained_on() -> None:
    corpus = corpus_of(100, 10)
    inputs, labels = everything(train_windows(corpus, config_of(max_seq_len=4, max_tokens=9)))
    assert inputs.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels.max() == 8


def test_text_shorter_than_a_window_is_refused_in_one_line() -> None:
    assert len(train_windows(corpus_of(9, 2), config_of(max_seq_len=8))) == 1
    line = r"^data='positions': the training part has 8 tokens, and a window takes max_seq_len \+ 1 = 9$"
    with pytest.raises(ValueError, match=line):
        train_windows(corpus_of(8, 2), config_of(max_seq_len=8))
    with pytest.raises(ValueError, match=line):
        train_windows(corpus_of(100, 2), config_of(max_seq_len=8, max_tokens=8))
    with pytest.raises(ValueError, match=r"^data='positions': the validation part has 1 tokens"):
        val_windows(corpus_of(100, 1), config_of())


# --- Validation windows


@given(max_seq_len=sizes, stride=st.none() | sizes, num_val=st.integers(2, 200))
def test_every_validation_token_is_predicted_once(max_seq_len: int, stride: int | None, num_val: int) -> None:
    corpus = corpus_of(50, num_val)
    inputs, labels = everything(val_windows(corpus, config_of(max_seq_len=max_seq_len, stride=stride)))
    predicted = Counter(labels[labels != IGNORED].tolist())
    assert predicted == Counter(corpus.val[1:].tolist())  # the first has nothing before it
    assert (labels[labels != IGNORED] == inputs[labels != IGNORED] + 1).all()


def test_last_validation_window_is_padded_and_masked_by_position_not_by_token() -> None:
    tokens = np.zeros(12, dtype=np.uint16)  # token 0 everywhere: real, not padding
    corpus = Corpus(tokens, tokens[:7], 2, None, "f" * 64, None)
    windows = val_windows(corpus, config_of(max_seq_len=4))
    inputs, labels = everything(windows)
    assert inputs.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert labels.tolist() == [[0, 0, 0, 0], [0, 0, IGNORED, IGNORED]]
    assert [item["attention_mask"].tolist() for item in WindowDataset(windows)] == [[1, 1, 1, 1], [1, 1, 1, 0]]


@given(eval_tokens=st.integers(1, 300), max_seq_len=sizes, num_val=st.integers(2, 300))
def test_evaluation_windows_are_the_fewest_that_hold_the_tokens_asked_for(
    eval_tokens: int, max_seq_len: int, num_val: int
) -> None:
    corpus = corpus_of(50, num_val)
    config = config_of(max_seq_len=max_seq_len, eval_tokens=eval_tokens)
    whole = val_windows(corpus, config.replace({"eval_tokens": None}))
    windows = val_windows(corpus, config)
    assert len(windows) == min(len(whole), -(-eval_tokens // max_seq_len))
    assert set(windows.starts) <= set(whole.starts)
    assert len(set(windows.starts)) == len(windows)


@given(num_items=st.integers(1, 500), num_wanted=st.integers(1, 600))
def test_evenly_spaced_items_are_spread_without_a_gap_twice_another(num_items: int, num_wanted: int) -> None:
    chosen = evenly_spaced(num_items, num_wanted)
    assert len(chosen) == min(num_items, num_wanted)
    assert 0 <= chosen[0] <= chosen[-1] < num_items
    gaps = np.diff(chosen)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert abs(int(chosen[0]) - (num_items - 1 - int(chosen[-1]))) <= 1  # as far from the start as from the end


def test_training_windows_for_evaluation_are_as_many_and_the_same_for_all_seeds() -> None:
    corpus = corpus_of(1000, 100)
    config = config_of(max_seq_len=8, eval_tokens=40)
    starts = train_eval_windows(corpus, config, len(val_windows(corpus, config))).starts
    assert len(starts) == 5
    assert (starts == train_eval_windows(corpus, config.replace({"seed": 9}), 5).starts).all()
    assert set(starts) <= set(train_windows(corpus, config).starts)


# --- Micro-batches


@given(num_windows=st.integers(1, 40), seed=st.integers(0, 2**31 - 1), batch_size=st.integers(1, 50))
def test_every_epoch_holds_every_window_once(num_windows: int, seed: int, batch_size: int) -> None:
    num_batches = -(-3 * num_windows // batch_size)
    drawn = np.concatenate([micro_batch_indices(num_windows, seed, i, batch_size) for i in range(num_batches)])
    for epoch in range(3):
        assert sorted(drawn[epoch * num_windows : (epoch + 1) * num_windows]) == list(range(num_windows))


@given(
    num_windows=st.integers(1, 40), index=st.integers(0, 1000), batch_size=sizes, others=st.lists(st.integers(0, 99))
)
def test_micro_batch_is_a_function_of_seed_and_index_whatever_was_asked_before(
    num_windows: int, index: int, batch_size: int, others: list[int]
) -> None:
    first = micro_batch_indices(num_windows, 5, index, batch_size)
    for other in others:
        micro_batch_indices(num_windows + other, other, other, batch_size)
    np.random.seed(0)  # noqa: NPY002
    assert (micro_batch_indices(num_windows, 5, index, batch_size) == first).all()


@given(num_windows=st.integers(1, 40), batch_size=sizes, factor=st.integers(1, 8))
def test_order_of_windows_does_not_depend_on_where_it_is_cut(num_windows: int, batch_size: int, factor: int) -> None:
    large = micro_batch_indices(num_windows, 3, 2, batch_size * factor)
    small = [micro_batch_indices(num_windows, 3, 2 * factor + k, batch_size) for k in range(factor)]
    assert (np.concatenate(small) == large).all()


def test_order_depends_on_the_seed_and_on_the_epoch() -> None:
    epochs = [tuple(micro_batch_indices(100, seed, index, 100)) for seed in (0, 1) for index in (0, 1)]
    assert len(set(epochs)) == 4
    assert all(epoch != tuple(range(100)) for epoch in epochs)


def test_micro_batch_holds_the_windows_at_its_indices() -> None:
    windows = train_windows(corpus_of(100, 10), config_of(max_seq_len=4))
    batch = micro_batch(windows, 7, 3, 5)
    starts = windows.starts[micro_batch_indices(len(windows), 7, 3, 5)]
    assert batch.input_ids.tolist() == [list(range(start, start + 4)) for start in starts]
    assert torch.equal(batch.labels, batch.input_ids + 1)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64


# --- The face for a DataLoader


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_dataloader_gives_every_window_in_the_usual_fields(num_workers: int) -> None:
    windows = val_windows(corpus_of(50, 31), config_of(max_seq_len=4))
    loader = DataLoader(WindowDataset(windows), batch_size=3, num_workers=num_workers)
    batches = list(loader)
    assert all(batch.keys() == {"input_ids", "attention_mask", "labels"} for batch in batches)
    assert all(value.dtype == torch.int64 for batch in batches for value in batch.values())
    inputs, labels = everything(windows)
    assert torch.cat([batch["input_ids"] for batch in batches]).numpy().tolist() == inputs.tolist()
    assert torch.cat([batch["labels"] for batch in batches]).numpy().tolist() == labels.tolist()


def test_a_shuffling_dataloader_gives_every_window_once() -> None:
    windows = train_windows(corpus_of(50, 2), config_of(max_seq_len=4))
    loader = DataLoader(WindowDataset(windows), shuffle=True, generator=torch.Generator().manual_seed(0))
    starts = [int(item["input_ids"][0, 0]) for item in loader]
    assert sorted(starts) == windows.starts.tolist()


@pytest.mark.parametrize("index", [-1, 12, 100])
def test_a_window_that_is_not_there_is_an_index_error(index: int) -> None:
    dataset = WindowDataset(train_windows(corpus_of(50, 2), config_of(max_seq_len=4)))
    assert len(dataset) == 12
    with pytest.raises(IndexError):
        dataset[index]


def test_windows_read_a_mapped_file_like_an_array(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    np.arange(50, dtype=np.uint16).tofile(path)
    mapped = Windows(np.memmap(path, dtype=np.uint16, mode="r"), np.arange(0, 48, 7), 5)
    plain = Windows(np.arange(50, dtype=np.uint16), np.arange(0, 48, 7), 5)
    for ours, theirs in zip(everything(mapped), everything(plain), strict=True):
        assert (ours == theirs).all()
