"""Classes and their time-reversed partners, given or found from the words of their names."""

import re
from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from m2clip_lib.errors import UserError

TURNED = (  # words whose exchange names the same action played backwards
    *(("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"), ("up", "down"), ("upward", "downward")),
    *(("upwards", "downwards"), ("forward", "backward"), ("forwards", "backwards"), ("clockwise", "anticlockwise")),
    *(("clockwise", "counterclockwise"), ("clockwise", "counter-clockwise"), ("clockwise", "anti-clockwise"), ("in", "out")),
    *(("into", "out of"), ("onto", "off"), ("on", "off"), ("open", "close"), ("opening", "closing"), ("push", "pull")),
    *(("pushing", "pulling"), ("growing", "shrinking"), ("rising", "falling"), ("lifting", "lowering"), ("closer to", "away from")),
    *(("towards", "away from"), ("toward", "away from"), ("together", "apart"), ("appearing", "disappearing"), ("entering", "leaving")),
    *(("putting", "taking"), ("put", "take"), ("attaching", "detaching"), ("filling", "emptying"), ("inflating", "deflating")),
    *(("ascending", "descending"), ("approaching", "receding"), ("covering", "uncovering"), ("folding", "unfolding")),
)


def opposite_labels(class_names: Sequence[str], given: Sequence[tuple[str, str]] = ()) -> Int[ndarray, "k"]:
    """The label of each class played backwards; -1 where there is no such class.

    Args:
        given: pairs of class names; without them, two classes are partners if exchanging words such as "opening" and "closing" turns
            one name into the other ("un" in front of a word counts, too).
    Raises: UserError when a given name is no class, or is in two pairs.
    """
    labels, found = {name: i for i, name in enumerate(class_names)}, np.full(len(class_names), -1)
    pairs = [tuple(pair) for pair in given] or _found_in_names(class_names)
    for pair in pairs:
        unknown = [name for name in pair if name not in labels]
        if unknown:
            raise UserError(f"eval.opposites: {unknown[0]!r} is no class of this dataset; give pairs of its class names")
        first, second = (labels[name] for name in pair)
        if found[first] >= 0 or found[second] >= 0:
            raise UserError(f"eval.opposites: {pair[0]!r} or {pair[1]!r} is in two pairs; a class has one opposite")
        found[first], found[second] = second, first
    return found


def _found_in_names(class_names: Sequence[str]) -> list[tuple[str, str]]:
    known = {name.lower(): name for name in class_names}
    partners = {}
    for name in class_names:
        words = set(re.findall(r"[\w-]+", name.lower()))
        own = [pair for pair in TURNED if any(set(side.split()) <= words for side in pair)]
        own += [(word, f"un{word}") for word in words] + [(word, word[2:]) for word in words if word.startswith("un")]
        turned = {_exchanged(name.lower(), some) for some in chain(combinations(own, 1), combinations(own, 2))}
        others = [known[other] for other in turned - {name.lower()} if other in known]
        if len(others) == 1:
            partners[name] = others[0]
    return [(name, other) for name, other in partners.items() if partners.get(other) == name and name < other]


def _exchanged(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    words = "|".join(sorted(map(re.escape, other), key=len, reverse=True))
    return re.sub(rf"(?<![\w-])({words})(?![\w-])", lambda found: other[found[1]], name)
