"""``hetfed benchmark``: methods by data sets by seeds, each a run that can be made again, and their tables."""
