"""What a run meets outside: devices, other processes and signals."""
