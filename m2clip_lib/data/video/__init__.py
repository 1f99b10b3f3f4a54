"""One video file: what its container says, what can be decoded, and frames as pixels."""
