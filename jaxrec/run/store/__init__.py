"""What a run leaves on the disk: its folder, its checkpoints and the hashes of its state."""
