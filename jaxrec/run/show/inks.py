"""Colors of text, lines and classes in pictures."""

INK, RED, FAINT = (32, 36, 42), (200, 30, 30), (110, 116, 124)
GRID = (226, 229, 233)
# Middle tones, so that one string is readable on a light and on a dark page.
STROKES = ("#2b7de0", "#e07b00", "#17965a", "#c0449a", "#8a63d2", "#80868b")


def class_ink(number: int) -> str:
    """The color of a class's boxes and lines; it comes again after six classes."""
    return STROKES[number % len(STROKES)]
