"""`python -m sn9reg` is the command line tool."""

from sn9reg.cli import main

main(prog_name="sn9reg")
