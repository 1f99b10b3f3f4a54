"""The texts of an experiment: its prompts and vocabulary, for the manifest, the model, and the eye."""

from collections.abc import Sequence
from dataclasses import dataclass

from m2clip_lib import paths
from m2clip_lib.config import DataSection
from m2clip_lib.data.labels import build_vocabulary
from m2clip_lib.data.prompts import Prompt, class_prompts, names_without_word, prompt_texts, read_prompts_file, read_vocabulary


@dataclass(frozen=True)
class Texts:
    """prompts: of every class. own: the sentences of data.prompts_file, () without. vocabulary: words of the masked-word head."""

    prompts: list[tuple[Prompt, ...]]
    own: tuple[tuple[str, ...], ...]
    vocabulary: list[str]

    def summary(self) -> str:
        """One line: classes, prompts, vocabulary, and the classes that have no word in it."""
        each = sorted({len(of_class) for of_class in self.prompts})
        count = f"{each[0]} to {each[-1]}" if len(each) > 1 else str(each[0])
        text = f"{len(self.prompts)} classes, {count} prompt(s) each ({self.prompts[0][0].text!r}, ...)"
        text += f", vocabulary of {len(self.vocabulary)} words"
        without = names_without_word(self.prompts, self.vocabulary)
        return text + (f"; {without} class names have no word in it: never masked" if without else "")


def experiment_texts(data: DataSection, class_names: Sequence[str]) -> Texts:
    """Prompts from the templates or the prompts file; vocabulary from the prompts (their words) or the vocabulary file."""
    own = read_prompts_file(paths.resolve(data.prompts_file), class_names) if data.prompts_file else ()
    prompts = class_prompts(class_names, data.prompt, own)
    file = data.vocabulary_file
    vocabulary = read_vocabulary(paths.resolve(file)) if file else build_vocabulary(prompt_texts(prompts))
    return Texts(prompts, own, vocabulary)
