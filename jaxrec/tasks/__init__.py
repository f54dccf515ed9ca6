"""The systems: each a module of pure functions, as ``jaxrec.tasks.system`` says."""
