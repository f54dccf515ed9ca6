"""A CPU's own forms of the operations that models are made of: the same numbers, made in less time.

They are off until `jaxrec.tune_cpu` turns them on. `jaxrec.models.layers` chooses between them and XLA's operations;
no model does.
"""
