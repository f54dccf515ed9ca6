"""Pure functions of a trained state: what it looks at, how far it can be trusted, what can be taken away from it."""
