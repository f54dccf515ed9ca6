"""python -m jaxrec COMMAND: the same as the ``jaxrec`` command."""

from jaxrec.cli import main

if __name__ == "__main__":
    main()
