import hashlib
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from discod.train.vector import ALIGNMENT_FLOATS, ParameterSpec, initial_parameters, layout, not_finite

SPECS = (
    ParameterSpec("hidden.weight", (5, 7), 5, "uniform"),
    ParameterSpec("hidden.bias", (7,)),
    ParameterSpec("out.weight", (7, 3), 7, "lecun"),
    ParameterSpec("norm.gain", (3,), 1, "ones"),
)


def test_every_tensor_and_the_end_are_aligned() -> None:
    place = layout(SPECS)
    assert place.offsets == (0, 48, 64, 96)
    assert place.d == 112
    assert place.parameter_count == 66


def test_views_write_through_and_flatten_is_their_inverse() -> None:
    place = layout(SPECS)
    vector = np.zeros(place.d, np.float32)
    place.views(vector)["out.weight"][1, 2] = 4
    assert vector[64 + 1 * 3 + 2] == 4
    assert (place.flatten(place.views(vector)) == vector).all()


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=6))
def test_views_never_overlap(shapes: list[list[int]]) -> None:
    place = layout(ParameterSpec(str(i), tuple(shape)) for i, shape in enumerate(shapes))
    vector = np.zeros(place.d, np.float32)
    for view in place.views(vector).values():
        view += 1
    assert vector.max() == 1
    assert vector.sum() == sum(math.prod(shape) for shape in shapes)
    assert place.d % ALIGNMENT_FLOATS == 0


def test_first_values_are_the_same_on_every_machine() -> None:
    vector = initial_parameters(SPECS, seed=3)
    assert vector.dtype == np.float32
    digest = hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()
    assert digest == "8f7be0603caaa7edac5c76c11c20063009ec21bdb3b96a073964620f902df109"


def test_first_values_follow_their_rule() -> None:
    specs = (ParameterSpec("w", (400, 50), 400, "uniform"), ParameterSpec("v", (400, 50), 400, "lecun"))
    views = layout(specs).views(initial_parameters(specs, seed=1))
    for name, limit in (("w", math.sqrt(6 / 400)), ("v", math.sqrt(3 / 400))):
        assert np.abs(views[name]).max() <= np.float32(limit)
        assert np.abs(views[name]).max() > 0.999 * limit
        assert abs(float(views[name].mean())) < 0.02 * limit
        assert abs(float(views[name].std()) / (limit / math.sqrt(3)) - 1) < 0.02


def test_first_values_of_a_tensor_depend_on_seed_and_name_only() -> None:
    alone = initial_parameters(SPECS[2:3], seed=3)
    among = layout(SPECS).views(initial_parameters(SPECS, seed=3))["out.weight"]
    assert (among.ravel() == alone[:21]).all()
    assert (initial_parameters(SPECS, seed=4) != initial_parameters(SPECS, seed=3)).any()


def test_gaps_are_zero() -> None:
    vector = initial_parameters((ParameterSpec("a", (3,), 1, "ones"), ParameterSpec("b", (2,), 1, "ones")), seed=0)
    assert vector.sum() == 5


def test_a_tensor_with_nan_or_infinity_is_named() -> None:
    place = layout(SPECS)
    vector = np.zeros(place.d, np.float32)
    assert not_finite(place, vector) is None
    for value in (math.nan, math.inf, -math.inf):
        vector[70] = value
        assert not_finite(place, vector) == "out.weight"
    vector[70], vector[40] = 0, math.nan
    assert not_finite(place, vector) == "(a gap)"
