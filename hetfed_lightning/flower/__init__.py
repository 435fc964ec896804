"""Federations between institutions: the same participants, rules and ensembles, with Flower as the engine between."""
