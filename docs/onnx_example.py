"""Name what happens in a video, without torch: python onnx_example.py DIR VIDEO; DIR is what m2clip export --onnx wrote."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import onnxruntime

folder, video = Path(sys.argv[1]), sys.argv[2]
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
frames, stride, side = (about["clip"][name] for name in ("frames", "stride", "image_size"))

with av.open(video) as container:
    count = sum(1 for _ in container.decode(video=0))
start, bounds = max(0, count - 1 - stride * (frames - 1)) // 2, [round((count - 1) / frames * i) for i in range(frames + 1)]
spread, middle = [(low + high) // 2 for low, high in pairwise(bounds)], [min(start + stride * i, count - 1) for i in range(frames)]
chosen, pictures = middle if stride else spread, {}  # stride 0: a frame from each of equal parts of the video
with av.open(video) as container:
    for number, frame in enumerate(container.decode(video=0)):
        if number in chosen:
            width, height = (max(side, round(n * side / min(frame.width, frame.height))) for n in (frame.width, frame.height))
            picture = frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
            top, left = (height - side) // 2, (width - side) // 2
            pictures[number] = picture[top : top + side, left : left + side]
clip = np.stack([pictures[number] for number in chosen]).transpose(0, 3, 1, 2)[None]  # (1, frames, 3, side, side) uint8 RGB

(scores,) = onnxruntime.InferenceSession(folder / "video.onnx").run(["scores"], {"frames": clip})
for label in np.argsort(-scores[0], kind="stable")[:3]:
    print(f"  {100 * scores[0, label]:5.1f} %  {about['class_names'][label]}")
