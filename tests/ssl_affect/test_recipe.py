import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_affect.errors import ConfigError, RecipeMismatchError
from ssl_affect.recipe import Recipe, check_recipes


@given(
    st.sampled_from(["h264", "jpeg"]),
    st.integers(1, 51),
    st.integers(8, 500),
    st.none() | st.floats(1, 240),
    st.floats(0, 4),
)
def test_a_recipe_comes_back_with_its_hash(codec, quality, half_size, fps, margin):
    recipe = Recipe(video_codec=codec, video_quality=quality, size=2 * half_size, fps=fps, margin=margin)
    copy = Recipe.from_dict(recipe.to_dict())
    assert copy == recipe
    assert copy.hash == recipe.hash
    assert len(recipe.hash) == 16


def test_a_fixed_crop_survives_json():
    recipe = Recipe(faces="fixed", fixed_crop=(0, 32, 160, 160))
    assert recipe.to_dict()["fixed_crop"] == [0, 32, 160, 160]
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_every_field_changes_the_hash():
    changes = [
        {"margin": 0.2}, {"size": 162}, {"fps": None}, {"video_codec": "jpeg"}, {"detector": "x"}, {"faces": "none"},
        {"sample_rate": 8000}, {"min_seconds": 2.0}, {"align": "similarity"}, {"min_score": 0.5},
    ]  # fmt: skip
    hashes = {Recipe().hash, *(Recipe(**change).hash for change in changes)}
    assert len(hashes) == len(changes) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"faces": "guess"}, "choose from detect, fixed, boxes, none"),
        ({"size": 161}, "even"),
        ({"size": 8}, "between 16 and 2048, got 8"),
        ({"video_quality": 52}, "between 0 and 51"),
        ({"video_codec": "jpeg", "video_quality": 0}, "between 1 and 100"),
        ({"faces": "fixed"}, "needs fixed_crop"),
        ({"fixed_crop": (0, 0, 9, 9)}, "take none"),
        ({"align": "similarity", "faces": "none"}, "facial points"),
        ({"min_seconds": 5.0, "max_seconds": 2.0}, "in order"),
        ({"min_seconds": 0.0}, "positive"),
        ({"fps": 0.0}, "fps must lie between"),
        ({"margin": float("nan")}, "margin"),
    ],
)
def test_impossible_recipes_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**arguments)


def test_unknown_and_missing_fields_are_named():
    values = Recipe().to_dict()
    del values["size"]
    values["colour"] = 1
    with pytest.raises(ConfigError, match=r"unknown fields \['colour'\], missing fields \['size'\]"):
        Recipe.from_dict(values)


def test_different_recipes_are_refused_side_by_side():
    data, checkpoint = Recipe(margin=0.2, size=128), Recipe()
    assert check_recipes(data, data) == []
    assert check_recipes(data, checkpoint, allow_mismatch=True) == ["margin", "size"]
    with pytest.raises(RecipeMismatchError) as caught:
        check_recipes(data, checkpoint)
    text = str(caught.value)
    assert data.hash in text
    assert checkpoint.hash in text
    marked = [line.split()[1] for line in text.splitlines() if line.strip().startswith("* ")]
    assert marked == ["margin", "size"]
    assert "--allow-recipe-mismatch" in text
