"""What many engines say, as one engine would say it: pure functions of their answers.

The order in which answers come never matters: everything is sorted by the names of the nodes first.
"""
