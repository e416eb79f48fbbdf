"""The colours of classes and curves, in every picture and on every page."""

from __future__ import annotations

PALETTE = ("#0d50ff", "#c18a0c", "#ff286a", "#07a886", "#953eb3", "#756519", "#8992c3", "#317246", "#b870ff", "#b52d86")
"""Ten that show on white and on the dark of the report alike, each with a contrast of at least 3 (WCAG 2.2, criterion
1.4.11), and that normal sight and each kind of colour blindness tell apart. Further classes have them with other
marks."""
GREY = "#808991"
"""Of what is none of the classes, of rules and of what lies behind; it shows on both, too."""
