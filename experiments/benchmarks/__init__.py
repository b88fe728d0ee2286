"""Measurements of speed, memory and size."""
