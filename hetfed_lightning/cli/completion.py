"""``hetfed completion``: a script with which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hetfed_lightning.cli.commands import COMMANDS
from hetfed_lightning.cli.examples import examples
from hetfed_lightning.cli.known_methods import known_methods
from hetfed_lightning.cli.run import run

SHELLS = ("bash",)

_OPTION = re.compile(r"^  (-.*?)(?:  |$)", re.MULTILINE)
"""Line of a help that begins an option: its spellings and the word for its value."""

_BEFORE = ("--method", "--allow_import")
"""Options of the help's last paragraph, which are read before the parser's own."""

_SCRIPT = """# Completion of hetfed for bash.
_hetfed() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" at=$((COMP_CWORD - 1)) command words=""
    COMPREPLY=()
    # bash cuts words at = and :
    if [[ $current == "=" || $current == ":" ]]; then
        at=$COMP_CWORD
        current=""
    fi
    if ((at >= 2)) && [[ ${{COMP_WORDS[at]}} == ":" && ${{COMP_WORDS[at - 1]}} == "hetfed" ]]; then
        COMPREPLY=($(compgen -W {names} -- "$current"))
        return
    fi
    if [[ ${{COMP_WORDS[at]}} == "=" ]]; then at=$((at - 1)); fi
    command="${{COMP_WORDS[1]}}"
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W {commands} -- "$current"))
        return
    fi
    if [[ $command == "deploy" ]]; then
        if ((COMP_CWORD == 2)); then
            COMPREPLY=($(compgen -W {deploy} -- "$current"))
            return
        fi
        command="deploy ${{COMP_WORDS[2]}}"
    fi
    if [[ $current == -* ]]; then
        case "$command" in
{options}
        esac
    else
        case "$command ${{COMP_WORDS[at]}}" in
            "benchmark -c") ;;
            *" -c" | *" --config")
                words={examples}
                COMPREPLY=($(compgen -f -- "$current"))
                ;;
            "examples examples") words={names} ;;
            *" --method") words={methods} ;;
{values}
        esac
    fi
    if [[ -n $words ]]; then
        COMPREPLY+=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -o default -F _hetfed hetfed
"""


@dataclass
class Options:
    """Options of one command.

    Attributes:
        names: The options as they are typed.
        values: Values by option, of those that have a choice.
    """

    names: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)


def completion_command(arguments: Sequence[str]) -> None:
    """``hetfed completion bash > FILE``: a script for ``source FILE``, made of the helps of all commands.

    Args:
        arguments: Command line after ``hetfed completion``.
    """
    parser = argparse.ArgumentParser(
        prog="hetfed completion",
        description="Prints a script with which a shell completes commands, options and their values. Write it to a "
        "file, source that file in ~/.bashrc, and make it again after an update of the package.",
    )
    parser.add_argument("shell", choices=SHELLS, help="The shell.")
    parser.parse_args(list(arguments))
    deploy = _deploy()
    helps = {name: help_of(name) for name in COMMANDS if name != "completion"}
    helps |= {f"deploy {name}": help_of("deploy", name) for name in deploy}
    sys.stdout.write(script({name: options_in(text) for name, text in helps.items()}))


def help_of(*command: str) -> str:
    """Text that a command prints with ``--help``; empty for one whose extra is not installed.

    Args:
        command: The command's words.
    """
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        run([*command, "--help"])
    return told.getvalue()


def options_in(text: str) -> Options:
    """Options that a help describes.

    Args:
        text: The help.
    """
    found = Options()
    for line in _OPTION.findall(text):
        spellings = [one.split()[0] for one in line.split(", ") if one.startswith("-")]
        found.names += spellings
        if choice := re.search(r"\{([\w,.-]+)\}", line):
            found.values |= dict.fromkeys(spellings, choice[1].split(","))
    found.names += [one for one in _BEFORE if re.search(rf"`{one}\s", text)]
    return found


def script(options: Mapping[str, Options]) -> str:
    """Script of bash that completes these commands.

    Args:
        options: Options by command.
    """
    names = examples()
    quoted = {
        "names": names,
        "examples": [f"hetfed:{name}" for name in names],
        "commands": [*COMMANDS, "deploy", "--help", "--version"],
        "deploy": _deploy(),
        "methods": sorted(known_methods()),
    }
    cases = [f'            "{name}") words={_quoted(one.names)} ;;' for name, one in options.items()]
    by_value: dict[str, list[str]] = {}
    for name, one in options.items():
        for option, values in one.values.items():
            by_value.setdefault(_quoted(values), []).append(f'"{name} {option}"')
    values = [f"            {' | '.join(where)}) words={what} ;;" for what, where in by_value.items()]
    return _SCRIPT.format(
        **{key: _quoted(words) for key, words in quoted.items()}, options="\n".join(cases), values="\n".join(values)
    )


def _deploy() -> list[str]:
    """Subcommands of ``hetfed deploy``, which uses the command line and is not used by it at once."""
    from hetfed_lightning.flower.cli import COMMANDS as SUBCOMMANDS

    return list(SUBCOMMANDS)


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))
