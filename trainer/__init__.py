"""What runs on every rank, mostly inside a container: from a frozen spec to a trained, exported model.

It meets the launchers only in files and a command line. Importing this package imports nothing else.
"""
