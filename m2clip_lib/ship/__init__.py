"""A checkpoint for use elsewhere: graphs that run without this library, a complete folder with its card, the Hugging Face Hub."""
