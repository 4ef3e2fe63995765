"""`python -m orlop` is `orlop`."""

from orlop.cli.main import main

main()
