"""When something happens: long videos, folders of them, live pictures, and search by a sentence."""
