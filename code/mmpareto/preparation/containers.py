"""Open a film or a sound track: choose its stream as ffmpeg does, decode it, show it upright."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from ..data.clips import Bad
from ..data.layout import LARGEST

NO_PROTOCOL = {"protocol_whitelist": "none"}  # FFmpeg may open nothing by itself
DEFAULT = 5_000_000  # ffmpeg takes a default stream unless another has so many pixels more
FROM_ZERO = ("asf", "avi", "matroska,webm", "nut")  # the time at which these end is their duration


class Track:
    """One stream of an open container."""

    def __init__(self, container, stream):
        self.container, self.stream = container, stream
        self.name = Path(container.name).name

    def frames(self) -> Iterator:
        """Yield all frames; raise Bad if the end of the file is missing."""
        spans: dict[int, tuple[float, float]] = {}  # by stream, in seconds
        for packet in self.container.demux():
            index = packet.stream.index  # packet.stream_index is 0 for the last, empty packets
            if packet.pts is not None:
                start = float((packet.pts if packet.dts is None else packet.dts) * packet.time_base)
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                first, last = spans.get(index, (start, end))
                spans[index] = min(first, start), max(last, end)
            if index == self.stream.index:
                yield from packet.decode()
        if self.stream.frames and self.container.format.name.startswith("mov,"):
            self._check_index()
        elif self.container.format.name != "aac":  # its duration is only a guess
            self._check_times(spans)

    def _check_index(self) -> None:
        """Compare the end of the last packet that an MP4 file lists with the end of the file."""
        told = max((entry.pos + entry.size for entry in self.stream.index_entries), default=0)
        if told > self.container.size:
            found = f"{self.container.size} bytes, its index says {told}"
            raise Bad("truncated", f"{self.name}: {found}")

    def _check_times(self, spans: dict[int, tuple[float, float]]) -> None:
        """Compare the last end with the duration in the header.

        The duration of a film may be that of its subtitles. Matroska tells that of each stream.
        """
        told = (self.container.duration or 0) / 1e6
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", self.stream.metadata.get("DURATION", ""))
        if tag and told:
            hours, minutes, seconds = map(float, tag.groups())
            told = min(told, 3600 * hours + 60 * minutes + seconds)
            spans = {0: spans.get(self.stream.index, (0.0, 0.0))}
        start = min((first for first, _ in spans.values()), default=0.0)
        end = max((last for _, last in spans.values()), default=0.0)
        if told > start and self.container.format.name in FROM_ZERO:
            told -= start
        if end - start < told - max(0.25, 0.02 * told):
            found = f"ends after {end - start:.2f} s, its header says {told:.2f} s"
            raise Bad("truncated", f"{self.name}: {found}")

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """Return a frame as players show it: square pixels, turned and mirrored, in BGR."""
        width, height, aspect = frame.width, frame.height, self.stream.sample_aspect_ratio or 1
        if aspect > 1:
            width = round(width * aspect)
        else:
            height = round(height / aspect)
        if width * height > LARGEST:
            raise Bad("too_large", f"{self.name}: {width} x {height} square pixels")
        picture = frame.to_ndarray(format="bgr24", width=width, height=height)
        if matrix := frame.side_data.get("DISPLAYMATRIX"):
            # (x, y) is shown at (a x + c y, b x + d y)
            a, b, c, d = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]].tolist()
            if abs(b) > abs(a):
                picture, a, d = picture.swapaxes(0, 1), c, b
            picture = np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
        return picture


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Track]:
    """Open the stream of this kind that ffmpeg would choose, to be decoded by one thread.

    FFmpeg gets the open file and no protocol. It would take some names for protocols ("concat:x"),
    and a playlist could make it read any file.
    """
    try:
        with (
            open(path, "rb") as file,
            av.open(file, options=NO_PROTOCOL, metadata_errors="replace") as container,
        ):
            streams = getattr(container.streams, kind)
            if not streams:
                raise Bad(f"no_{kind}_stream", f"{path.name} has no {kind} stream")
            stream = max(streams, key=_score)
            if stream.codec_context is None:
                detail = f"FFmpeg has no decoder for its {kind}, codec {_codec(container, stream)}"
                raise Bad("unreadable", f"{path.name}: {detail}: convert the file")
            stream.codec_context.thread_count = 1
            if kind == "video":
                stream.codec_context.options = {"max_pixels": str(LARGEST)}
            yield Track(container, stream)
    except av.error.FFmpegError as error:
        raise Bad("unreadable", f"{path.name}: {error.strerror or error}") from None


def _score(stream) -> int:
    """Rank a stream: not a cover, a default, then most pixels or channels; 0 without a decoder."""
    if stream.codec_context is None:
        return 0
    if stream.disposition & Disposition.attached_pic:
        return 1
    size = stream.width * stream.height if stream.type == "video" else stream.channels
    return 2 + size + DEFAULT * bool(stream.disposition & Disposition.default)


def _codec(container, stream) -> str:
    """Return a codec's name and tag from FFmpeg's description, the only place that has them."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    listed = container.dumps_format()
    av.logging.set_level(level)
    found = re.search(rf"#0:{stream.index}\b.*?: (?:Audio|Video): ([^,\n]+)", listed)
    return found[1] if found else "unknown"
