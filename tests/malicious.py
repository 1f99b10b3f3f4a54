"""A pickle that runs code when it is loaded."""

from pathlib import Path


class Malicious:
    """Unpickling this writes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "code ran"))
