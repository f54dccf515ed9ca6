"""Image files and what belongs to them, as a source: what folders and tables of images share.

Whoever finds files says so with a ``File`` for each example. ``open_files`` reads them, ``arrange`` puts them into
splits, and ``to_source`` makes a source of both.
"""

from jaxrec.data.files.arranging import Arranged, arrange, check_trained, to_source
from jaxrec.data.files.example import File
from jaxrec.data.files.form import feature_of_files, image_format, levels_in, to_measure
from jaxrec.data.files.identity import digest_of, names_of
from jaxrec.data.files.known import Known, Parts, known_names, numbered
from jaxrec.data.files.options import HELD, PLAIN, Options
from jaxrec.data.files.reading import Readable, open_files, readable_by
from jaxrec.data.files.unreadable import attempt, readable

__all__ = [
    "HELD",
    "PLAIN",
    "Arranged",
    "File",
    "Known",
    "Options",
    "Parts",
    "Readable",
    "arrange",
    "attempt",
    "check_trained",
    "digest_of",
    "feature_of_files",
    "image_format",
    "known_names",
    "levels_in",
    "names_of",
    "numbered",
    "open_files",
    "readable",
    "readable_by",
    "to_measure",
    "to_source",
]
