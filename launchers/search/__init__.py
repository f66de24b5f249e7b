"""Sweeps while they run and afterwards: members, points, reports, the best. How points are chosen is the package
sweeps'; nothing here decides it."""
