"""A guide shows a line of shell or Python and then runs exactly that line."""

from __future__ import annotations

import ast
import shlex
from textwrap import fill
from typing import Any

import typer

_WIDTH = 80


class Guide:
    """Prints text, and lines with what they answer; `names` are the Python lines' variables."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Print a paragraph."""
        typer.echo(f"{fill(' '.join(text.split()), _WIDTH)}\n")

    def show(self, line: str) -> None:
        """Show a command, which may span several lines, without running it."""
        _show(line, "$ ", "")

    def shell(self, line: str) -> None:
        """Show a command of ours and run it in this process."""
        from typer.main import get_command

        from .app import app

        self.show(line)
        program, *arguments = shlex.split(line.replace("\\\n", ""))
        code = get_command(app).main(arguments, prog_name=program, standalone_mode=False)
        if code:
            raise typer.Exit(code)
        typer.echo()

    def python(self, source: str) -> None:
        """Show Python statements and run them; print what the last one gives, as Python does."""
        statements = ast.parse(source).body
        for statement in statements:
            text = ast.get_source_segment(source, statement)
            assert text is not None
            _show(text, ">>> ", "... ")
            if isinstance(statement, ast.Expr):
                value = eval(text, self.names)
                if value is not None:
                    typer.echo(repr(value))
            else:
                exec(text, self.names)
        typer.echo()


def _show(text: str, first: str, further: str) -> None:
    for place, line in enumerate(text.splitlines()):
        typer.secho(f"{further if place else first}{line}", bold=True)
