"""A participant and its kinds, groups of them, how a newcomer starts, and what is fitted to own data."""
