"""What is no answer to a bad input: an error from inside a library that names nobody and nothing of ours."""

import traceback
from collections.abc import Iterable
from pathlib import Path

import hetfed_lightning

PACKAGE = str(Path(hetfed_lightning.__file__).parent)
ANSWERS = (ValueError, TypeError, OSError, ImportError)


def is_bare(error: BaseException, names: Iterable[str]) -> bool:
    """Whether an error comes from another package, or is of a kind that speaks of the program, and names nothing.

    Args:
        error: What was raised.
        names: Participants, files and keys, any of which is an answer.
    """
    told = " ".join([str(error), *getattr(error, "__notes__", ())])
    if any(name in told for name in names):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return not frames[-1].filename.startswith(PACKAGE) or not isinstance(error, ANSWERS)
