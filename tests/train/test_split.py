"""The split that noise can be promised on: a row's side follows from that row alone."""

from __future__ import annotations

import numpy as np

from discod.train.datasets import sample, split


def test_one_row_less_moves_no_other() -> None:
    whole = sample("digits")
    training, validation = split(whole, 0.25, 5, by_row=True)
    assert validation is not None
    assert len(training) + len(validation) == len(whole)
    assert 0.2 < len(validation) / len(whole) < 0.3
    sides = {row.tobytes(): "training" for row in training.inputs} | {r.tobytes(): "kept" for r in validation.inputs}
    assert len(sides) == len(whole)
    fewer = whole.rows(np.arange(1, len(whole)))
    less_training, less_validation = split(fewer, 0.25, 5, by_row=True)
    assert less_validation is not None
    assert {sides[row.tobytes()] for row in less_training.inputs} == {"training"}
    assert {sides[row.tobytes()] for row in less_validation.inputs} == {"kept"}
    moved, _ = split(fewer, 0.25, 5)  # the other split is drawn anew for other content
    assert {sides[row.tobytes()] for row in moved.inputs} == {"training", "kept"}


def test_it_follows_from_the_seed_and_the_label() -> None:
    whole = sample("digits:0")
    training, _ = split(whole, 0.25, 5, by_row=True)
    assert split(whole, 0.25, 5, by_row=True)[0].content_hash == training.content_hash
    assert split(whole, 0.25, 6, by_row=True)[0].content_hash != training.content_hash
    assert split(whole, 0.0, 5, by_row=True) == (whole, None)


def test_a_side_may_be_empty() -> None:
    one = sample("digits").rows(np.array([7]))
    seen = {(len(a), len(b or ())) for a, b in (split(one, 0.5, seed, by_row=True) for seed in range(20))}
    assert seen == {(1, 0), (0, 1)}
