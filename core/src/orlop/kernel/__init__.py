"""The decisions of the cluster: who is next, where it goes, what a status means. No I/O, no clock, no randomness."""
