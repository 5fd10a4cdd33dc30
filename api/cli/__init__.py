"""The command line: every command is a thin call of `lensbase.api`."""

from __future__ import annotations


def main() -> None:
    """Run the command line; never returns."""
    from typer.main import get_command

    from .app import app

    get_command(app).main(prog_name="lensbase")
