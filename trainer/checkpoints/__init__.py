"""What survives a run, when it is written, and with what a run begins. The exported model is export.py's."""
