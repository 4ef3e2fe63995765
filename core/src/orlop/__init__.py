"""Orlop: a small kernel that pools machines and carries schedulers installed as plugins."""

__version__ = "0.1.0"
