"""A program that brings a task's artefacts to its node, with the standard library alone. See `__main__`."""
