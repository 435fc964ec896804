"""Participants and their kinds, groups of them, transfer to newcomers, and fitting to a participant's own data."""
