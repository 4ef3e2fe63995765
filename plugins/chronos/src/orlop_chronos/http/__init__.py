"""Chronos' HTTP API, in both dialects."""

from orlop_chronos.http.dispatching import application

__all__ = ["application"]
