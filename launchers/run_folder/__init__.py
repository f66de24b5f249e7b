"""What is in the folder of a run: its layout, journal, code, provenance and index. Nothing here starts or asks
anything."""
