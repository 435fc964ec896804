"""Averages of what participants share: settings, groups, private means and the server's step."""
