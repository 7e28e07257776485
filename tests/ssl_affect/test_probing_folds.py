import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_affect.errors import ConfigError
from ssl_affect.probing.folds import grouped_folds, shared_folds

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60)


@given(groups=NAMES, num_folds=st.integers(2, 6))
def test_no_group_stands_in_two_folds(groups, num_folds):
    if len(set(groups)) < 2:
        with pytest.raises(ConfigError, match="1 groups"):
            grouped_folds(groups, num_folds)
        return
    folds = grouped_folds(groups, num_folds)
    assert len({(group, fold) for group, fold in zip(groups, folds, strict=True)}) == len(set(groups))
    assert set(folds) == set(range(min(num_folds, len(set(groups)))))


def test_folds_depend_on_names_not_on_order():
    groups = np.array(["a", "b", "b", "c", "d", "d", "e"] * 3)
    order = np.random.default_rng(0).permutation(len(groups))
    np.testing.assert_array_equal(grouped_folds(list(groups[order]), 3), grouped_folds(list(groups), 3)[order])


@given(
    pairs=st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("abcdefg")), min_size=1, max_size=60),
    num_folds=st.integers(2, 5),
)
def test_every_class_is_in_several_folds_and_no_group_of_it_in_two(pairs, num_folds):
    classes, groups = zip(*pairs, strict=True)
    folds = shared_folds(classes, groups, num_folds)
    groups_of = {name: {g for c, g in pairs if c == name} for name in classes}
    for name, found in groups_of.items():
        of_class = {fold for (c, _), fold in zip(pairs, folds, strict=True) if c == name}
        assert of_class == {-1} if len(found) == 1 else len(of_class) == min(num_folds, len(found))
    assert len({(*pair, fold) for pair, fold in zip(pairs, folds, strict=True)}) == len(set(pairs))
