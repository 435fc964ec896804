"""Checkpoints of a federation: entries beside Lightning's, safe writing, and reading of files that may be damaged."""
