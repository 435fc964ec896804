"""The name of the unified model, where reports can read it without the model."""

STUDENT = "student"
"""Name of the unified model in logs and checkpoints."""
