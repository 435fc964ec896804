"""A site: one institution's participant, its rounds, and the states on its own disk."""
