"""Evaluation: a protocol, predictions on disk, and the tables made from them."""
