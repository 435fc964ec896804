"""A site: one institution's participant, its rounds, and what it keeps on its own disk."""
