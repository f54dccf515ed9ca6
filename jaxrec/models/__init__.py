"""The networks, as Linen modules; a system builds its own from its settings."""
