"""For tests, ours and framework authors': the real kernel on virtual time, with simulated nodes."""
