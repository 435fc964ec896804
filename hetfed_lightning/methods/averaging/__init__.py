"""Averaging of shared states: settings, sharing groups, private means, and the server's optimizer step."""
