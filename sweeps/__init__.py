"""Spaces and points, without I/O: what values a sweep's members have."""
