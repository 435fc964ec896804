"""The coordinator: its rounds, the averaging of sites' states, and its records of a run."""
