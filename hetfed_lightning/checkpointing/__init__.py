"""Checkpoints of a federation: what they hold beside Lightning's, and how files are read that may be damaged."""
