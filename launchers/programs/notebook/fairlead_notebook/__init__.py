"""What a notebook's job runs. Nothing of Fairlead's is imported: this is installed beside what an image has."""
