"""The coordinator: whom it asks, what it makes of their replies, and what it records of a run."""
