"""From a folder on disk to a tensor of frames."""
