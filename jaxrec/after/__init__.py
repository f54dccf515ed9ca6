"""Pure functions of a trained state: what it looks at, how far it can be trusted, and its export to other runtimes."""
