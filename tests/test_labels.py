"""Class names, prompts, vocabulary and their digest."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.video import R3D_18_Weights

from m2clip_lib.data.labels import build_prompts, build_vocabulary, labels_sha256, name_from_folder


def test_prompts_stand_in_the_order_of_the_names():
    assert build_prompts(["ski", "abseil"], "A video of {}") == ["A video of ski", "A video of abseil"]
    assert build_prompts(["a {strange} name"], "{}, a sport") == ["a {strange} name, a sport"]


def test_vocabulary_is_the_sorted_lower_case_words():
    assert build_vocabulary(["A video of Moving left", "A video of moving UP"]) == ["a", "left", "moving", "of", "up", "video"]


def test_prompts_of_kinetics_400_have_519_words():
    # torchvision carries the canonical names; the published list is the same without round brackets
    names = [name.replace("(", "").replace(")", "") for name in R3D_18_Weights.DEFAULT.meta["categories"]]
    assert len(names) == 400
    assert len(build_vocabulary(build_prompts(names, "A video of {}"))) == 519


def test_digest_is_that_of_the_lines():
    assert labels_sha256(["ski", "滑雪"]) == hashlib.sha256("ski\n滑雪".encode()).hexdigest()


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), min_size=2, max_size=6, unique=True), st.randoms())
def test_digest_sees_a_permutation_of_the_names(names, random):
    other = names.copy()
    random.shuffle(other)
    assert (labels_sha256(other) == labels_sha256(names)) == (other == names)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("brush_hair", "brush hair"),
        ("brush-hair", "brush hair"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("moving left", "moving left"),
        ("__tidy__me", "tidy me"),
        ("TaiChi", "Tai Chi"),
        ("CPR", "CPR"),
        ("滑雪", "滑雪"),
    ],
)
def test_folder_becomes_words(folder, name):
    assert name_from_folder(folder) == name


@given(st.text())
def test_name_of_a_folder_is_a_name_already(folder):
    name = name_from_folder(folder)
    assert name_from_folder(name) == name
    assert name == " ".join(name.split())
