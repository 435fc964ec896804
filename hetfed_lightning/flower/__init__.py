"""A federation between institutions, carried by Flower: the same rules, callbacks and numbers, another place to run.

Needs the extra ``flower``. Nothing is imported here, so that a process of the engine loads what it needs and no more.
"""
