"""A pickle that runs code when loaded."""

from pathlib import Path


class Malicious:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "code ran"))
