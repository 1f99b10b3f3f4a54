"""The demonstration's checkpoint, exported once for all tests of this room: that takes 20 s, so they belong to one group."""

from pathlib import Path

import pytest

from m2clip_lib import paths

DEMO = Path(__file__).parent.parent / "golden" / "demo_checkpoint.safetensors"


@pytest.fixture(scope="session")
def demo_file() -> Path:
    """The checkpoint of a run of the demonstration."""
    return DEMO


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Folder and largest differences of m2clip export DEMO --onnx DIR --text, where no evaluation is known. Read only."""
    from m2clip_lib.ship.folder import export

    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("exported")
    patch.setattr(paths, "RESULTS", root / "results")
    found = export(DEMO, root / "onnx", None, text=True)
    patch.undo()
    return root / "onnx", {file.name: differences for file, differences in found.items()}
