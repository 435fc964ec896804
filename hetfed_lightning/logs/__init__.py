"""Metrics of participants: stored, counted, reduced and written, without knowledge of the federation."""
