"""The host side of a member, beside its ranks: attempts, their causes of death, hangs, what programs report. Nothing
here is imported by the login node's verbs but to read what it left."""
