"""The texts of an experiment: prompts (templates, or sentences from a file), which of them a training step reads, and the vocabulary."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2clip_lib import paths
from m2clip_lib.config import DataSection
from m2clip_lib.data.classes import class_key
from m2clip_lib.data.seeds import Purpose, stream
from m2clip_lib.errors import UserError
from m2clip_lib.files import read_json, read_lines

PUNCTUATION = ".,;:!?\"'()"


@dataclass(frozen=True)
class Prompt:
    """A text, and the positions of the class name among its whitespace words (empty: the name was not found)."""

    text: str
    name_words: range = range(0)


def build_prompts(class_names: Sequence[str], template: str) -> list[str]:
    """Fill a template with one {}: one prompt per class, in the order of the names."""
    return [template.format(name) for name in class_names]


def build_vocabulary(prompts: Sequence[str]) -> list[str]:
    """Return the lower-cased whitespace words of all prompts, sorted; a word's index is its position (as in the published code)."""
    return sorted({word for prompt in prompts for word in prompt.lower().split()})


def templates(prompt: str | Sequence[str]) -> tuple[str, ...]:
    """Return data.prompt as a tuple of one or more templates."""
    return (prompt,) if isinstance(prompt, str) else tuple(prompt)


def class_prompts(class_names: Sequence[str], prompt: str | Sequence[str], own: Sequence[Sequence[str]] = ()) -> list[tuple[Prompt, ...]]:
    """Return the prompts of every class.

    Args:
        prompt: template or templates with one {}. own: sentences of each class, in the order of the names, in place of the templates.
    """
    if own:
        return [tuple(_locate(name, text) for text in texts) for name, texts in zip(class_names, own, strict=True)]
    return [tuple(_fill(name, template) for template in templates(prompt)) for name in class_names]


def prompt_texts(prompts: Sequence[Sequence[Prompt]]) -> list[str]:
    """Return all texts, class by class."""
    return [prompt.text for of_class in prompts for prompt in of_class]


def nth_prompts(prompts: Sequence[Sequence[Prompt]], number: int) -> list[Prompt]:
    """Pick one prompt per class: number j modulo the number of prompts of the class."""
    return [of_class[number % len(of_class)] for of_class in prompts]


def prompt_number(seed: int, step: int, prompts: int) -> int:
    """Draw which of `prompts` prompts a training step reads: a function of (seed, step)."""
    return int(stream(seed, Purpose.PROMPT, step, prompts).integers(prompts))


def read_prompts_file(file: Path, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Read JSON {class name: [prompt, ...]}; returns the prompts of every class, in the order of the names.

    Raises: UserError for a class without prompts, and for a class that the dataset does not have.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected an object: class name -> list of prompts")
    content = {class_key(name): texts for name, texts in content.items()}
    for name, texts in content.items():
        if name not in class_names:
            raise UserError(f"{file}: {name!r} is not one of the {len(class_names)} classes ({class_names[0]!r}, ...); correct it")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError(f"{file}: class {name!r}: expected a list of one or more prompts")
    missing = [name for name in class_names if name not in content]
    if missing:
        raise UserError(f"{file}: no prompts for class {missing[0]!r} ({len(missing)} of {len(class_names)} classes have none); add them")
    return tuple(tuple(content[name]) for name in class_names)


def read_vocabulary(file: Path) -> list[str]:
    """Read `<word> <index>` per line, indices 0 to n-1 once each in any order; returns the words in the order of their indices.

    Raises: UserError naming the line that has another form, or that repeats a word or an index.
    """
    words: dict[int, str] = {}
    lines = read_lines(file)
    for number, line in lines:
        found = re.fullmatch(r"(\S+)[ \t]+([0-9]+)", line)
        if not found or int(found[2]) >= len(lines):
            raise UserError(f"{file}:{number}: {line!r}: expected '<word> <index>' with an index from 0 to {len(lines) - 1}")
        if int(found[2]) in words or found[1] in words.values():
            raise UserError(f"{file}:{number}: {line!r}: this word or index appears twice; each belongs on one line")
        words[int(found[2])] = found[1]
    if not words:
        raise UserError(f"{file}: no words; expected '<word> <index>' per line")
    return [words[i] for i in range(len(words))]


def names_without_word(prompts: Sequence[Sequence[Prompt]], vocabulary: Sequence[str]) -> int:
    """Count the classes that the masked-word head cannot learn: no word of the name, in any prompt, is in the vocabulary."""
    known = set(vocabulary)
    return sum(not any(p.text.lower().split()[i] in known for p in of_class for i in p.name_words) for of_class in prompts)


def _fill(name: str, template: str) -> Prompt:
    before = template.partition("{}")[0]
    first = len(before.split()) if not before or before[-1].isspace() else len(before.split()) - 1  # glued: "视频{}" is one word
    text = build_prompts([name], template)[0]
    return Prompt(text, range(first, min(first + len(name.split()), len(text.split()))))


def _locate(name: str, text: str) -> Prompt:
    """Find the words of the name as a run in a sentence, ignoring case and punctuation."""
    wanted, words = ([word.strip(PUNCTUATION) for word in x.lower().split()] for x in (name, text))
    starts = [i for i in range(len(words) - len(wanted) + 1) if words[i : i + len(wanted)] == wanted]
    return Prompt(text, range(starts[0], starts[0] + len(wanted)) if starts and wanted else range(0))


@dataclass(frozen=True)
class Texts:
    """The prompts of every class, the sentences of data.prompts_file (or ()), and the words of the masked-word head."""

    prompts: list[tuple[Prompt, ...]]
    own: tuple[tuple[str, ...], ...]
    vocabulary: list[str]

    def summary(self) -> str:
        """Describe the classes, the prompts, the vocabulary, and the classes that have no word in it, in one line."""
        each = sorted({len(of_class) for of_class in self.prompts})
        count = f"{each[0]} to {each[-1]}" if len(each) > 1 else str(each[0])
        without = names_without_word(self.prompts, self.vocabulary)
        never = f"; {without} class names have no word in it: never masked" if without else ""
        first, words = self.prompts[0][0].text, len(self.vocabulary)
        return f"{len(self.prompts)} classes, {count} prompt(s) each ({first!r}, ...), vocabulary of {words} words{never}"


def experiment_texts(data: DataSection, class_names: Sequence[str]) -> Texts:
    """Make the prompts from the templates or the prompts file, and the vocabulary from their words or the vocabulary file."""
    own = read_prompts_file(paths.resolve(data.prompts_file), class_names) if data.prompts_file else ()
    prompts = class_prompts(class_names, data.prompt, own)
    if data.vocabulary_file:
        return Texts(prompts, own, read_vocabulary(paths.resolve(data.vocabulary_file)))
    return Texts(prompts, own, build_vocabulary(prompt_texts(prompts)))
