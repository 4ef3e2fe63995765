"""Where state lives: one interface, several backends, one conformance suite."""
