"""Films and sounds of all kinds become what FFmpeg decodes, or are refused with the reason."""

import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import soundfile
from av.stream import Disposition

from mmpareto.data.clips import Bad, Source
from mmpareto.data.recipes import named
from mmpareto.preparation.containers import opened
from mmpareto.preparation.media import convert

FPS, RATE, SECONDS = 10, 16000, 2


def prepared(path, kind="frames"):
    names = {"frames": "3fps", "audio": "stft"}
    return convert(Source(kind, path), named(names, {"m": kind}, {}, {}))


def refused(path, kind="frames"):
    """Return the reason, or None."""
    try:
        prepared(path, kind)
    except Bad as bad:
        return bad.args[0]


def is_whole(path, number=0):
    """Return whether the film and its sound are as long as FFmpeg decodes them."""
    with av.open(str(path), metadata_errors="replace") as file:
        frames = len(list(file.decode(video=number)))
    with av.open(str(path), metadata_errors="replace") as file:
        samples = sum(frame.samples for frame in file.decode(audio=number))
    film, sound = prepared(path), prepared(path, "audio")
    assert film.seconds == pytest.approx(frames / FPS)
    assert sound.seconds == pytest.approx(samples / RATE)
    assert len(film.files) == round(3 * film.seconds)
    return True


def drawn(height=48, width=64):
    """Return a grey picture, red at the upper left and green at the lower left."""
    picture = np.full((height, width, 3), 100, np.uint8)
    picture[: height // 3, : width // 3] = 250, 0, 0
    picture[-height // 3 :, : width // 3] = 0, 250, 0
    return picture


def write(path, order="va", start=0, flags="faststart", set_up=lambda stream: None, cover=b""):
    """Write 2 s; order names the streams: (v)ideo, (w)ide video, (a)udio, (s)tereo audio."""
    options = {"movflags": flags} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as file:
        file.metadata["title"] = "cafeQ"
        if cover:
            file.add_attachment("cover.jpg", "image/jpeg", cover)
        packets = []
        for kind in order:
            if kind in "vw":
                picture = drawn() if kind == "v" else drawn(48, 96)
                stream = file.add_stream("libx264", rate=FPS, pix_fmt="yuv420p")
                stream.height, stream.width = picture.shape[:2]
                frames = [av.VideoFrame.from_ndarray(picture, "rgb24") for _ in range(2 * FPS)]
                step, rate = 1, FPS
            else:
                layout = "mono" if kind == "a" else "stereo"
                stream = file.add_stream("aac", rate=RATE, layout=layout)
                tone = 0.3 * np.sin(np.arange(1000) / 9) if kind == "a" else np.zeros((2, 1000))
                tone = np.atleast_2d(tone).astype(np.float32)
                frames = [av.AudioFrame.from_ndarray(tone, "fltp", layout) for _ in range(32)]
                step, rate = 1000, RATE
            stream.thread_count = 1
            set_up(stream)
            for number, frame in enumerate(frames):
                frame.pts, frame.time_base = start * rate + number * step, Fraction(1, rate)
                if kind in "as":
                    frame.sample_rate = RATE
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)
    return path


def replace(path, old, new):
    """Replace the last such bytes of a file by others, of the same length."""
    start, found, end = path.read_bytes().rpartition(old)
    assert found and len(old) == len(new)
    path.write_bytes(start + new + end)


def disguise(path, codec):
    """Make the last stream, of AAC, one of another codec."""
    replace(path, b"mp4a", codec)
    replace(path, b"esds", b"free")


@pytest.mark.parametrize(("order", "start"), [("va", 0), ("av", 3), ("va", 100)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.ts"])
def test_last_frames_and_missing_ends(tmp_path, name, order, start):
    """No frame is lost, whichever stream is first; a header tells that the end is missing."""
    path = write(tmp_path / name, order, start)
    assert is_whole(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    assert refused(path) == (None if name == "a.ts" else "truncated")


class TestStreams:
    @pytest.mark.parametrize(("codec", "told"), [(b"ac-4", "ac4 (ac-4"), (b"apac", "none (apac")])
    def test_no_decoder(self, tmp_path, codec, told):
        """A codec without decoder is named if it is asked for; else it does no harm."""
        path = write(tmp_path / "a.mp4")
        disguise(path, codec)
        assert len(prepared(path).files) == 6
        with pytest.raises(Bad) as caught:
            prepared(path, "audio")
        assert f"a.mp4: FFmpeg has no decoder for its audio, codec {told}" in caught.value.args[1]

    @pytest.mark.parametrize("kind", ["frames", "audio"])
    def test_no_description(self, tmp_path, kind):
        path = write(tmp_path / "a.mp4", "va" if kind == "audio" else "av")
        replace(path, b"stsd", b"free")
        assert refused(path, kind) == "unreadable"
        assert refused(path, "audio" if kind == "frames" else "frames") is None

    def test_second_sound_without_decoder(self, tmp_path):
        path = write(tmp_path / "a.mp4", "vaa")
        disguise(path, b"apac")
        assert is_whole(path)

    @pytest.mark.parametrize(
        ("order", "default", "chosen"),
        [("vwas", "", "ws"), ("wvsa", "", "ws"), ("vwas", "va", "va"), ("vwsa", "wsva", "ws")],
    )
    def test_choice(self, tmp_path, order, default, chosen):
        """As ffmpeg: a default stream first, then most pixels and most channels."""
        kinds = iter(order)

        def set_up(stream):
            stream.disposition = Disposition.default if next(kinds) in default else 0

        path = write(tmp_path / "a.mkv", order, set_up=set_up)
        for kind, name in zip(("video", "audio"), chosen, strict=True):
            with opened(path, kind) as track:
                assert track.stream.index == order.index(name)

    def test_cover(self, tmp_path):
        """A picture of the cover is no film, though it is larger."""
        cover = cv2.imencode(".jpg", np.zeros((256, 256, 3)))[1].tobytes()
        path = write(tmp_path / "a.mkv", "v", set_up=not_default, cover=cover)
        with av.open(str(path)) as file:
            assert len(file.streams.video) == 2
        assert len(prepared(path).files) == 6


def not_default(stream):
    stream.disposition = 0


class TestPicture:
    """The picture is as players show it."""

    @pytest.mark.parametrize("turns", range(4))
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_all_orientations(self, tmp_path, turns, mirrored):
        path = write(
            tmp_path / "a.mp4", "v",
            set_up=lambda stream: stream.set_display_rotation(90 * turns, hflip=mirrored),
        )  # fmt: skip
        turned = np.rot90(drawn(), turns)
        assert_shown(path, turned[:, ::-1] if mirrored else turned)

    @pytest.mark.parametrize(
        ("aspect", "shape"), [(Fraction(2), (48, 128)), (Fraction(3, 4), (64, 64))]
    )
    def test_square_pixels(self, tmp_path, aspect, shape):
        def set_up(stream):
            stream.sample_aspect_ratio = aspect

        assert_shown(write(tmp_path / "a.mkv", "v", set_up=set_up), drawn(*shape))

    def test_square_before_turning(self, tmp_path):
        def set_up(stream):
            stream.sample_aspect_ratio = Fraction(2)
            stream.set_display_rotation(90)

        assert_shown(write(tmp_path / "a.mp4", "v", set_up=set_up), np.rot90(drawn(48, 128)))


def assert_shown(path, expected):
    still = cv2.imdecode(np.frombuffer(prepared(path).files["/000003.jpg"], np.uint8), 1)
    assert still.shape == expected.shape
    assert np.abs(still[:, :, ::-1] - expected.astype(float)).mean() < 8


class TestLength:
    def test_last_byte_of_an_mp4(self, tmp_path):
        """Its stream is not whole, the other one is."""
        path = write(tmp_path / "a.mp4")
        path.write_bytes(path.read_bytes()[:-1])
        assert [refused(path), refused(path, "audio")].count(None) == 1

    def test_subtitles_longer_than_the_film(self, tmp_path):
        text = (
            "1\n00:00:00,500 --> 00:00:01,000\nhello\n\n2\n00:00:01,200 --> 00:00:09,000\nstays\n"
        )
        (tmp_path / "a.srt").write_text(text)
        write(tmp_path / "a.mp4")
        path = tmp_path / "b.mkv"
        with (
            av.open(str(tmp_path / "a.mp4")) as film,
            av.open(str(tmp_path / "a.srt")) as subtitles,
            av.open(str(path), "w") as both,
        ):
            streams = [*film.streams, *subtitles.streams]
            to = {stream: both.add_stream_from_template(stream) for stream in streams}
            packets = [p for file in (film, subtitles) for p in file.demux() if p.dts is not None]
            for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
                packet.stream = to[packet.stream]
                both.mux(packet)
        assert is_whole(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 3 // 4])
        assert refused(path) == refused(path, "audio") == "truncated"

    @pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+delay_moov"])
    @pytest.mark.parametrize(("length", "start"), [(1, 0), (1, 0.5), (2, 1), (9, 0)])
    def test_edit_list(self, tmp_path, flags, length, start):
        """The film begins later, ends earlier, or claims to be longer than its frames."""
        path = write(tmp_path / "a.mp4", flags=flags)
        place = path.read_bytes().find(b"elst") + 12
        old = path.read_bytes()[place : place + 8]
        first = struct.unpack(">Ii", old)[1] + int(start * FPS * 1024)
        replace(path, old, struct.pack(">Ii", 1000 * length, first))
        assert is_whole(path)

    def test_title_that_is_not_utf8(self, tmp_path):
        path = write(tmp_path / "a.mp4")
        replace(path, b"cafeQ", b"caf\xe9Q")
        assert is_whole(path)


class TestWav:
    """The size of the samples in the header, and of the file."""

    @pytest.fixture
    def wav(self, tmp_path):
        path = tmp_path / "a.wav"
        soundfile.write(path, np.sin(np.arange(2 * RATE) / 6), RATE, "PCM_16")
        return path

    @pytest.mark.parametrize(
        ("riff", "samples"),
        [(2**32 - 1, 2**32 - 1), (0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000),
         (2**31 - 1, 2**31 - 37), (0, 0), (4 * RATE + 44, 4 * RATE), (2**32 - 1, 4 * RATE)],
    )  # fmt: skip
    def test_sizes_of_streams(self, wav, riff, samples):
        """Programs that write to a pipe claim a size that they do not know."""
        content = wav.read_bytes()
        head = content[:4] + struct.pack("<I", riff) + content[8:40] + struct.pack("<I", samples)
        whole = prepared(wav, "audio")
        wav.write_bytes(head + content[44:])
        assert prepared(wav, "audio").files == whole.files

    @pytest.mark.parametrize("missing", [1, 2])
    def test_missing_samples(self, wav, missing):
        wav.write_bytes(wav.read_bytes()[:-missing])
        assert refused(wav, "audio") == "truncated"

    def test_missing_notes(self, wav):
        """Samples are whole though the notes that follow them are not; others are of odd size."""
        content, notes = wav.read_bytes(), b"LIST" + struct.pack("<I", 5) + b"INFO??"
        wav.write_bytes(content[:36] + notes + content[36:] + notes[:9])
        assert refused(wav, "audio") is None
