"""The command line. Heavy imports happen inside commands, so that `orlop --help` and `orlop status` start fast."""
