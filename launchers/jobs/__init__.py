"""Jobs that were handed over: their state, logs, cost, end, and another try. Read from the run folder first."""
