"""`python -m sn9reg` is the command line tool."""

from sn9reg.cli import run

run()
