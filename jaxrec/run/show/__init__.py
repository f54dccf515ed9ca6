"""What a run shows: log, pictures and report."""
