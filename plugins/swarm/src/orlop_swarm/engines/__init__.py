"""Talking to the nodes' Docker Engines: their HTTP API over byte streams, wherever these come from."""
