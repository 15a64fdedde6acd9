"""Decoding pictures with OpenCV, which refuses those too large before it takes memory for them."""

import os
from pathlib import Path

# cv2 reads it once, when it is imported. A value that the user has set stays.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))

import cv2
import numpy as np

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # our error is enough
cv2.setNumThreads(0)  # a thread pool does not survive the fork of a loading process


def decode(content: np.ndarray) -> np.ndarray | None:
    """Return the picture (H, W, 3) in a file's bytes; None if it is no picture or too large."""
    try:
        return cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error:  # a size above the limit, and some kinds of damage
        return None


def read(path: str | Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Decode the picture (H, W, 3) in a file; None as `decode` returns it."""
    try:
        return cv2.imread(str(path), flags)
    except cv2.error:
        return None
