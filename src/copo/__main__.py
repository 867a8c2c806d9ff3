"""`python -m copo` is the `copo` program."""

from copo.cli.main import main

main()
