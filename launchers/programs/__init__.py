"""Programs: what a rank runs by the kind of its job, whether it is there, and packages that are installed for it."""
