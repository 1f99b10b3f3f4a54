"""Loading with PyAV before and after a change: `python benchmarks/two_commits.py OTHER`, where OTHER is a checkout of the other commit.

One process per checkout; they read the same videos (see data_loading.py) in turns. Times are those of the processor, which other work on
the machine changes little.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from timing import compared, markdown

HERE = Path(__file__).parent.parent
ROUNDS = 7
READER = """
import sys, time
sys.path.insert(0, "benchmarks")
import data_loading as d
from dataclasses import asdict
d.torch.set_num_threads(1)
files = sys.argv[1:]
videos = d.pd.DataFrame([{"path": path, "label": 0, **asdict(d.probe(path))} for path in files])
clips = d.TrainClips(videos, d.VideoReader(videos, "pyav"), d.CLIP_LEN, d.STRIDE, d.SIDE, d.HOW, seed=0)
views = d.TestViews(videos, clips.reader, d.Protocol("test", d.CLIP_LEN, d.STRIDE, d.TEMPORAL, d.SPATIAL), d.SIDE)
work = {"train": lambda: [clips[0, row] for row in range(len(videos))], "test": lambda: [views[row] for row in range(len(videos))],
        "probe": lambda: [d.probe(path) for path in files]}
print("ready", flush=True)
for line in sys.stdin:
    start = time.process_time()
    work[line.strip()]()
    print(time.process_time() - start, flush=True)
"""


def main(other: Path) -> None:
    """Print one table per kind of videos and of work."""
    from data_loading import make_videos

    with tempfile.TemporaryDirectory() as folder:
        for kind, videos in zip(("keyframes 250 apart", "after prepare --transcode"), make_videos(Path(folder)), strict=True):
            readers = {}
            for name, tree in (("before", other), ("after", HERE)):
                command = [sys.executable, "-c", READER, *videos.path]
                readers[name] = subprocess.Popen(command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
                readers[name].stdout.readline()
            for what in ("train", "test", "probe"):
                seconds: dict[str, list[float]] = {name: [] for name in readers}
                for name in list(readers) * (ROUNDS + 1):
                    readers[name].stdin.write(f"{what}\n")
                    seconds[name].append(float(readers[name].stdout.readline()))
                warm = {name: values[1:] for name, values in seconds.items()}
                print(markdown(compared(f"{what}, {kind}", warm, len(videos), "per s of one core")), flush=True)
            for reader in readers.values():
                reader.stdin.close()
                reader.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
