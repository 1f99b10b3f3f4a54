"""What lies below a folder: its videos, its class folders, and what is passed over, which is counted and said."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from m2clip_lib.errors import UserError

EXTENSIONS = {
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob"),
    *(".ts", ".mts", ".m2ts", ".flv", ".wmv", ".asf", ".ogv", ".ogg", ".gif", ".mxf", ".y4m", ".h264", ".hevc", ".ivf"),
}
SYSTEM_NAMES = {
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler", "lost+found", "__macosx"),
    *("system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
}
NO_VIDEO = "class folders without a video"
PassedOver = dict[str, list[Path]]  # reason -> what was passed over for it


def subfolders(folder: Path, passed: PassedOver) -> list[Path]:
    """Return the folders in a folder, sorted, without those of the system. Raises: UserError when the folder cannot be read."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_of_the_system(path, passed)]
    except OSError as error:
        raise UserError(f"videos: {folder} cannot be read ({error.strerror}); change its permissions") from error


def utf_8_name(folder: Path) -> str:
    """The name of a folder as text, whatever the locale."""
    try:
        return os.fsencode(folder.name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"videos: the name of the folder {folder.name!a} in {folder.parent} is not UTF-8; rename it") from error


def _is_of_the_system(path: Path, passed: PassedOver) -> bool:
    """Whether a file or folder is not the user's own, but written by a NAS, an operating system or a cache."""
    name = path.name.lower()
    if name.startswith("._"):
        passed["twins that macOS writes beside files (._)"].append(path)
    elif name in SYSTEM_NAMES or name.startswith("."):
        passed["hidden or written by the system"].append(path)
    else:
        return False
    return True


def passed_over(passed: PassedOver, root: Path) -> tuple[str, ...]:
    """One line per reason for which something was passed over, with its number and an example; class folders are all named."""
    lines = []
    for reason, places in sorted(passed.items()):
        shown = [repr(str(path.relative_to(root) if path.is_relative_to(root) else path)) for path in sorted(places)]
        if shown:
            lines.append(f"passed over: {len(shown)} {reason}: " + (", ".join(shown) if reason == NO_VIDEO else f"such as {shown[0]}"))
    return tuple(lines)


def videos_below(folder: Path, passed: PassedOver | None = None) -> Iterator[Path]:
    """Find the videos below a folder; links are followed, each folder is visited once. passed: collects what is passed over, by reason."""
    seen: set[str] = set()
    passed = defaultdict(list) if passed is None else passed

    def refused(error: OSError) -> None:
        passed[f"folders cannot be read ({error.strerror})"].append(Path(error.filename))

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refused):
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_of_the_system(Path(place, name), passed))
        yield from (Path(place, name) for name in folders if Path(name).suffix.lower() in EXTENSIONS)  # listed too: they get a status
        for path in (Path(place, name) for name in files):
            if not _is_of_the_system(path, passed):
                if path.suffix.lower() in EXTENSIONS:
                    yield path
                else:
                    passed["files whose ending is not a video's"].append(path)
