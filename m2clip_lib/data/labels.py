"""Class names, the prompts made of them, and the words they are made of."""

import hashlib
import unicodedata
from collections.abc import Sequence


def build_prompts(class_names: Sequence[str], template: str) -> list[str]:
    """Template with one {} + class names -> one prompt a class, in the order of the names."""
    return [template.format(name) for name in class_names]


def build_vocabulary(prompts: Sequence[str]) -> list[str]:
    """The lower-cased whitespace words of all prompts, sorted; a word's index is its place (as in the published code)."""
    return sorted({word for prompt in prompts for word in prompt.lower().split()})


def labels_sha256(class_names: Sequence[str]) -> str:
    """Digest of the names in order: label i means the same class in two runs only if this agrees."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()


def class_key(name: str) -> str:
    """What is the same in all spellings of a class name: "hurling (sport)", "Hurling_Sport" and "HurlingSport" have one key."""
    return "".join(c for c in unicodedata.normalize("NFC", name).lower() if c.isalnum())


def name_from_folder(folder: str) -> str:
    """A folder name as words: "brush_hair" and "brush-hair" -> "brush hair"; "ApplyEyeMakeup" -> "Apply Eye Makeup"."""
    spaced = "".join(" " + c if c.isupper() and i and folder[i - 1].islower() else c for i, c in enumerate(folder))
    return " ".join(spaced.replace("_", " ").replace("-", " ").split())
