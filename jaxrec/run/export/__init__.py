"""A trained run as files that are used without jaxrec, and the check that they say the same."""
