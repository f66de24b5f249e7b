"""The verb `prove`: the same job twice, once with a chain of kills, and the comparison of what both came to."""
