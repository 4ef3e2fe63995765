"""Keys, certificates and tokens. Pure but for `files`: times and random bytes are arguments."""
