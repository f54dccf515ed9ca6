"""Colors of text, lines and classes in pictures."""

INK, RED, FAINT = (32, 36, 42), (200, 30, 30), (110, 116, 124)
GRID = (226, 229, 233)
# Middle tones, so that one string is readable on a light and on a dark page.
STROKES = ("#2b7de0", "#e07b00", "#17965a", "#c0449a", "#8a63d2", "#80868b")
CLASSES = (*STROKES, "#0e9aa7", "#8c5a2b", "#8a9a0b", "#1f3a93", "#f0569a", "#3c4043")
"""Red is not among them: it stands for what is wrong."""


def class_ink(number: int) -> str:
    """The color of a class's boxes, curves and dots; it comes again after twelve classes."""
    return CLASSES[number % len(CLASSES)]
