"""A promise, the fault that tests it, and the change that takes its defence out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A change of the source without which a promise is not kept, so that its tests have to fail.

    Attributes:
        file: Path below the repository's root.
        old: Text that occurs in it once.
        new: What replaces it.
        tests: Arguments for pytest: files, or tests in them.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Promise:
    """One row of the table; its tests carry ``@pytest.mark.promise(key)``.

    Attributes:
        key: Name in markers.
        says: What is promised.
        injected: Which faults.
        mutations: Each takes a defence out; at least one.
    """

    key: str
    says: str
    injected: str
    mutations: tuple[Mutation, ...]
