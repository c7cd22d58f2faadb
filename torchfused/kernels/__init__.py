"""Kernel bodies only, one file a strategy."""
