"""How far apart two colours are in light, as WCAG 2 defines it."""

import numpy as np


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(colour: str, other: str) -> float:
    """As WCAG 2 defines it."""
    dark, light = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(each)) for each in (colour, other))
    return (light + 0.05) / (dark + 0.05)
