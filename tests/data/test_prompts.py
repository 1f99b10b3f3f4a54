"""Prompts of a class, the words of its name in them, vocabularies from files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2clip_lib.data.prompts import (
    build_vocabulary,
    class_prompts,
    names_without_word,
    nth_prompts,
    prompt_number,
    prompt_texts,
    read_prompts_file,
    read_vocabulary,
)
from m2clip_lib.errors import UserError


def name_words(prompt) -> list[str]:
    return [prompt.text.split()[i] for i in prompt.name_words]


def test_each_template_gives_one_prompt_per_class():
    assert prompt_texts(class_prompts(["ski", "run"], "A video of {}")) == ["A video of ski", "A video of run"]
    several = class_prompts(["ski", "run"], ("A video of {}", "{}, outdoors"))
    assert prompt_texts(several) == ["A video of ski", "ski, outdoors", "A video of run", "run, outdoors"]
    assert [p.text for p in nth_prompts(several, 1)] == ["ski, outdoors", "run, outdoors"]


@pytest.mark.parametrize(
    ("template", "name", "found"),
    [
        ("A video of {} outside", "brushing hair", ["brushing", "hair"]),
        ("A video of {}", "a", ["a"]),  # the name's word, not the template's
        ("{}, outdoors", "ski", ["ski,"]),
        ("视频{}", "滑 雪", ["视频滑", "雪"]),  # glued to the template
        ("{}", "of of", ["of", "of"]),
    ],
)
def test_name_is_where_the_template_puts_it(template, name, found):
    assert name_words(class_prompts([name], template)[0][0]) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Somebody is brushing hair.", ["brushing", "hair."]),
        ("Brushing Hair, seen from above", ["Brushing", "Hair,"]),
        ("hair is brushing", []),  # not as a run
        ("a comb moves through long strands", []),
    ],
)
def test_name_is_found_as_a_run_of_words_in_a_users_sentence(text, found):
    ((prompt,),) = class_prompts(["brushing hair"], "unused {}", [[text]])
    assert (prompt.text, name_words(prompt)) == (text, found)


def test_classes_with_fewer_sentences_repeat_theirs():
    prompts = class_prompts(["a", "b"], "{}", [["a 1", "a 2", "a 3"], ["b 1"]])
    assert [[p.text for p in nth_prompts(prompts, j)] for j in range(3)] == [["a 1", "b 1"], ["a 2", "b 1"], ["a 3", "b 1"]]


def test_prompt_of_a_step_is_a_function_of_seed_and_step():
    drawn = [prompt_number(3, step, 4) for step in range(200)]
    assert drawn == [prompt_number(3, step, 4) for step in range(200)]
    assert drawn != [prompt_number(4, step, 4) for step in range(200)]
    assert set(drawn) == {0, 1, 2, 3}
    assert {prompt_number(3, step, 1) for step in range(20)} == {0}


@given(st.lists(st.text("ab é", min_size=1).filter(str.strip), min_size=1, max_size=6), st.randoms())
def test_vocabulary_does_not_depend_on_the_order_of_prompts(texts, random):
    other = texts.copy()
    random.shuffle(other)
    vocabulary = build_vocabulary(texts)
    assert vocabulary == build_vocabulary(other) == sorted(set(" ".join(texts).lower().split()))


# --- files ---


def prompts_file(folder, content):
    (folder / "prompts.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "prompts.json"


def test_prompts_file_is_read_in_the_order_of_the_names(tmp_path):
    file = prompts_file(tmp_path, {"run": ["runs"], "滑雪": ["a skier", "滑雪 now"]})
    assert read_prompts_file(file, ["滑雪", "run"]) == (("a skier", "滑雪 now"), ("runs",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ski": ["x"]}, r"no prompts for class 'run' \(1 of 2"),
        ({"ski": ["x"], "run": ["y"], "swim": ["z"]}, r"'swim' is not one of the 2 classes"),
        ({"ski": [], "run": ["y"]}, "class 'ski': expected a list"),
        ({"ski": "x", "run": ["y"]}, "class 'ski': expected a list"),
        ({"ski": ["x", " "], "run": ["y"]}, "class 'ski': expected a list"),
        (["x"], "expected an object"),
    ],
)
def test_prompts_file_that_does_not_fit_names_the_class(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_prompts_file(prompts_file(tmp_path, content), ["ski", "run"])


def test_vocabulary_file_gives_words_their_index(tmp_path):
    (tmp_path / "v.txt").write_bytes("\ufeffvideo 2\r\na 0\r\n\r\nSki 1 \r\n".encode())
    assert read_vocabulary(tmp_path / "v.txt") == ["a", "Ski", "video"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a 0\nb 2\n", 2), ("a 0\nb 0\n", 2), ("a 0\na 1\n", 2), ("a\n", 1), ("a b 0\n", 1), ("a 0\nb -1\n", 2), ("a 0\n\nb x\n", 3)],
)
def test_bad_line_of_a_vocabulary_is_named(tmp_path, text, line):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(UserError, match=rf"v\.txt:{line}:"):
        read_vocabulary(tmp_path / "v.txt")


def test_empty_vocabulary_is_a_message(tmp_path):
    (tmp_path / "v.txt").write_text("\n")
    with pytest.raises(UserError, match="no words"):
        read_vocabulary(tmp_path / "v.txt")


def test_names_without_a_known_word_are_counted():
    prompts = class_prompts(["brushing hair", "ski"], "A video of {}")
    assert names_without_word(prompts, ["a", "video", "of", "hair"]) == 1
    assert names_without_word(prompts, ["a", "video", "of"]) == 2
    assert names_without_word(prompts, build_vocabulary(prompt_texts(prompts))) == 0
