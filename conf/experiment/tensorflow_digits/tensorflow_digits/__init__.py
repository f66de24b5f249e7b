"""Handwritten digits by Keras on several workers."""
