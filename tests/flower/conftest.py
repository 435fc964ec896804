"""Takes back what reading a configuration leaves in the process, as for commands."""

from tests.cli.conftest import _process_before_a_command

__all__ = ["_process_before_a_command"]
