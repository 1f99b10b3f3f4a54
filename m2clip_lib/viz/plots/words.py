"""Which frames each word of a caption reads."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes


def plot_word_attention(ax: Axes, words: Sequence[str], rows: np.ndarray) -> Axes:
    """Attention of words (n) over frames, (n, t), rows sum to 1: word_attention's."""
    image = ax.imshow(100 * rows, cmap="cividis", aspect="auto", vmin=0)
    ax.figure.colorbar(image, ax=ax, label="share of the word's attention, %")
    ax.set_yticks(range(len(words)), words)
    ax.set_xticks(range(rows.shape[1]), [str(i + 1) for i in range(rows.shape[1])])
    ax.set_xlabel("frame of the clip")
    ax.set_ylabel("word of the caption")
    ax.grid(False)
    word, frame = np.unravel_index(rows.argmax(), rows.shape)
    ax.set_title(f"“{words[word]}” reads frame {frame + 1} most: {100 * rows[word, frame]:.0f} % (even: {100 / rows.shape[1]:.0f} %)")
    return ax
