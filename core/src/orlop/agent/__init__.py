"""The node's shell: keeps the session, runs what is assigned, reports what happens."""
