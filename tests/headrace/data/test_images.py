"""Still pictures against Pillow's exact path: every kind of file, upright, whole, or a typed error."""

from __future__ import annotations

import functools
import io
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from generated_clips import numbered_picture, read_number
from numpy.typing import NDArray
from PIL import Image, ImageCms

from headrace.data.decode.exif import exif_orientation
from headrace.data.decode.geometry import Orientation, centre_box
from headrace.data.decode.image import ImageDecoder
from headrace.data.decode.limits import Limits
from headrace.data.decode.probe import probe
from headrace.data.decode.table import build_decoder
from headrace.data.failures import NotMedia, SampleError, TooLarge, Truncated, UnsupportedCodec

# pytest sets the filters aside by which the decoder silences Pillow; see `test_nothing_is_printed_of_odd_metadata`.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

BILINEAR = Image.Resampling.BILINEAR


def decode(data: bytes, height: int = 64, width: int = 96, frames: int = 1) -> NDArray[np.uint8]:
    """Return the pictures [T, H, W, 3] that a file gives; what is not written stays a colour of its own."""
    out = np.full((frames, height, width, 3), (255, 0, 255), np.uint8)
    given = ImageDecoder().decode(io.BytesIO(data), np.linspace(-1.0, 9.0, frames), out)
    assert np.array_equal(given, np.zeros(frames))
    return out


def save(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def numbered(number: int = 42) -> Image.Image:
    return Image.fromarray(numbered_picture(number, 64, 96))


@functools.cache
def landscape(height: int, width: int) -> Image.Image:
    """Return a picture with the spectrum of a photograph: noise whose amplitude falls with the frequency."""
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    grey, *colours = (
        np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) * amplitude, (height, width)) for _ in range(4)
    )
    pixels = np.stack([128 + 25 * grey / grey.std() + 10 * colour / colour.std() for colour in colours], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def exact(picture: Image.Image, height: int, width: int) -> NDArray[np.int64]:
    """Return what Pillow makes of the whole picture: its centre, reduced by the antialiased bilinear filter."""
    box = centre_box(picture.height, picture.width, height, width)
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    return np.asarray(picture.convert("RGB").resize((width, height), BILINEAR, box=corners)).astype(np.int64)


def error(picture: NDArray[np.uint8], expected: NDArray[np.int64]) -> float:
    return float(np.abs(picture - expected).mean())


# What a picture looks like


@pytest.mark.parametrize(
    ("format", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"),
     ("PNG", "L"), ("PNG", "LA"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "CMYK"),
     ("PPM", "RGB"), ("PPM", "L"), ("JPEG2000", "RGB"), ("AVIF", "RGB")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["auto", "image"])
def test_an_image_is_a_clip_that_stands_still(name: str, format: str, mode: str) -> None:
    data = save(numbered().convert(mode), format)
    out = np.zeros((3, 64, 96, 3), np.uint8)
    given = build_decoder(name).decode(io.BytesIO(data), np.array([0.0, 5.0, -1.0]), out)
    assert [read_number(picture) for picture in out] == [42, 42, 42]
    assert np.array_equal(given, np.zeros(3))
    info = probe(io.BytesIO(data))
    assert (info.kind, info.codec, info.frames, info.seconds) == ("image", format.lower(), 1, 0.0)
    assert (info.height, info.width, info.index) == (64, 96, None)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"keep_rgb": True}, {"optimize": True},
     {"restart_marker_blocks": 4}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    ("height", "width"), [(600, 800), (75, 100), (76, 101), (224, 224), (33, 200), (300, 20), (7, 5)]
)
def test_a_jpeg_is_shrunk_as_pillow_shrinks_it(options: dict[str, object], height: int, width: int) -> None:
    data = save(landscape(600, 800), "JPEG", quality=95, **options)
    expected = exact(Image.open(io.BytesIO(data)), height, width)
    assert error(decode(data, height, width)[0], expected) < 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"quality": 90}), ("JPEG", {"quality": 95})])
def test_sizes_near_and_far(format: str, options: dict[str, object], mode: str) -> None:
    data = save(landscape(121, 163).convert(mode), format, **options)
    picture = Image.open(io.BytesIO(data))
    for height, width in [(121, 163), (121, 121), (120, 163), (97, 33), (32, 32), (242, 326), (300, 200), (500, 11)]:
        assert error(decode(data, height, width)[0], exact(picture, height, width)) < 1, (height, width)


def test_colour_is_taken_from_every_pixel() -> None:
    """swscale left to itself skips every second pixel's colour when it shrinks a picture."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    assert error(decode(save(picture, "PNG"), 100, 100)[0], exact(picture, 100, 100)) < 0.5


def test_a_picture_of_the_wanted_size_is_not_touched() -> None:
    """A CIFAR picture at 32x32 is what Pillow decodes, to the bit."""
    data = save(landscape(32, 32), "JPEG", quality=95)
    assert np.array_equal(decode(data, 32, 32)[0], np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (5, 4000), (4000, 5)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_smallest_and_the_thinnest(format: str, size: tuple[int, int]) -> None:
    data = save(Image.new("RGB", size, (200, 100, 50)), format)
    for height, width in [(1, 1), (32, 32), (8, 100)]:
        assert np.abs(decode(data, height, width)[0].astype(int) - (200, 100, 50)).max() <= 3


def test_sixteen_bit_grey_keeps_its_greys() -> None:
    pixels = numbered_picture(42, 64, 96)[..., 0].astype(np.uint16) * 128
    out = decode(save(Image.fromarray(pixels), "PNG"))[0]
    assert read_number(np.minimum(out.astype(int) * 2, 255).astype(np.uint8)) == 42
    assert 125 <= int(out.max()) <= 129


def test_sixteen_bit_colour_keeps_its_colours() -> None:
    rows = np.zeros((64, 96, 3), ">u2")
    rows[:] = (51200, 25600, 12800)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 96, 64, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)
    assert np.abs(decode(data, 32, 32)[0].astype(int) - (200, 100, 50)).max() <= 1


def _png_header(width: int, height: int) -> bytes:
    """Return the beginning of a grey PNG, and of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(1000)))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_transparency_is_dropped_not_blended() -> None:
    picture = Image.new("RGBA", (96, 64), (10, 200, 90, 0))
    for data in (save(picture, "PNG"), save(picture, "WEBP", lossless=True, exact=True)):
        assert (decode(data)[0] == (10, 200, 90)).all()


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_of_unknown_meaning_are_refused(mode: str) -> None:
    picture = Image.new("RGB", (32, 32), (200, 100, 50))
    if mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        converted = ImageCms.applyTransform(picture, transform)
        assert converted is not None
    else:
        converted = picture.convert("L").convert(mode)
    with pytest.raises(UnsupportedCodec, match=f"mode {mode}"):
        decode(save(converted, "TIFF"))


def test_the_first_picture_of_an_animation() -> None:
    pictures = [numbered(number) for number in (42, 43, 44)]
    data = save(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], lossless=True)
    assert read_number(decode(data)[0]) == 42
    data = save(pictures[0], "PNG", save_all=True, append_images=pictures[1:])
    assert read_number(decode(data)[0]) == 42


def test_the_first_picture_of_a_stereo_pair() -> None:
    data = save(numbered(42), "MPO", save_all=True, append_images=[numbered(43)])
    assert read_number(decode(data)[0]) == 42
    assert probe(io.BytesIO(data)).frames == 1


# Upright


def _stored(orientation: int) -> Image.Image:
    """Return what a camera held that way writes: the inverse of what EXIF asks the reader to do."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose values
    picture = numbered()
    return picture if orientation == 1 else picture.transpose(Image.Transpose(undo[orientation]))


def _exif(orientation: int, order: str = ">") -> bytes:
    """Return an EXIF block with its tag behind another one."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    maker = struct.pack(f"{order}HHII", 0x010F, 2, 4, int.from_bytes(b"abc\0", "big" if order == ">" else "little"))
    tag = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 2) + maker + tag + bytes(4)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = _stored(orientation)
    data = save(stored.convert("CMYK"), "JPEG", exif=exif) if format == "CMYK" else save(stored, format, exif=exif)
    assert read_number(decode(data)[0]) == 42
    assert read_number(decode(data, 32, 48)[0]) == 42
    info = probe(io.BytesIO(data))
    assert (info.height, info.width) == (64, 96)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_either_byte_order_behind_other_segments(order: str) -> None:
    data = save(_stored(6), "JPEG", exif=_exif(6, order), comment=b"x" * 3000)
    assert read_number(decode(data)[0]) == 42
    filled = data[:2] + b"\xff\xff\xff" + data[2:]  # fill bytes may stand before any marker
    assert read_number(decode(filled)[0]) == 42


def test_exif_behind_the_pixels_of_a_png() -> None:
    data = save(_stored(6), "PNG")
    end = data.rindex(b"IEND") - 4
    data = data[:end] + _chunk(b"eXIf", _exif(6)[6:]) + data[end:]
    assert read_number(decode(data)[0]) == 42
    info = probe(io.BytesIO(data))
    assert (info.height, info.width) == (64, 96)


def test_exif_in_a_png_as_imagemagick_writes_it() -> None:
    data = save(_stored(6), "PNG")
    content = f"\nexif\n{len(_exif(6)):8d}\n{_exif(6).hex()}\n".encode()
    for text, number in ((content, 42), (content[:-2] + b"zz", None)):
        changed = data[:33] + _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)) + data[33:]
        picture = decode(changed)[0]
        assert number is None or read_number(picture) == number


def test_damaged_exif_says_nothing_and_costs_nothing() -> None:
    whole = _exif(6)
    assert exif_orientation(whole) == Orientation(transpose=True, flip_columns=True)
    damaged = [whole[:cut] for cut in range(len(whole) - 6)]
    damaged += [whole.replace(b"MM", b"XX"), b"Exif\0\0" + b"MM\0*" + b"\xff" * 40, _exif(0), _exif(9), _exif(65535)]
    for exif in damaged:
        assert exif_orientation(exif) == Orientation()
        assert read_number(decode(save(numbered(), "JPEG", exif=exif or b"Exif\0\0"))[0]) == 42
    rng = np.random.default_rng(0)
    for _ in range(2000):
        changed = np.frombuffer(whole, np.uint8).copy()
        changed[rng.integers(6, len(whole), 3)] = rng.integers(0, 256, 3)
        exif_orientation(changed.tobytes())


def test_nothing_is_printed_of_odd_metadata() -> None:
    """As a decode actor would run: with Python's own filters, not those of pytest."""
    odd = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 40) + b"\x01\x1a\0\5\0\0\0\x01\xff\xff\xff\xff" * 3
    palette = numbered().quantize(8)
    files = [
        save(numbered(), "JPEG", exif=odd),
        save(numbered().convert("CMYK"), "JPEG", exif=odd),
        save(palette, "PNG", transparency=bytes(range(8))),
        save(numbered(), "TIFF")[:-40] + b"\xff" * 40,
        _png_header(10_000, 9_000),
    ]
    code = (
        "import io, sys; import numpy as np; from headrace.data.decode.image import ImageDecoder; "
        "from headrace.data.decode.limits import Limits; from headrace.data.decode.probe import probe; "
        "from headrace.data.failures import SampleError\n"
        "limits = Limits(pixels_per_frame=10**8)\n"
        "for line in sys.stdin:\n"
        "    file = io.BytesIO(bytes.fromhex(line))\n"
        "    try: ImageDecoder(limits).decode(file, np.zeros(1), np.zeros((1, 8, 8, 3), np.uint8))\n"
        "    except SampleError: pass\n"
        "    try: probe(file, limits)\n"
        "    except SampleError: pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    text = "\n".join(data.hex() for data in files)
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Damage


@pytest.mark.parametrize("format", ["JPEG", "progressive", "CMYK", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_a_truncated_image_is_a_typed_error_or_whole(format: str) -> None:
    data = {
        "progressive": lambda: save(numbered(), "JPEG", progressive=True),
        "CMYK": lambda: save(numbered().convert("CMYK"), "JPEG"),
    }.get(format, lambda: save(numbered(), format))()
    whole, raised = decode(data), 0
    for cut in np.linspace(0, len(data) - 1, 100).astype(int).tolist():
        try:
            assert np.array_equal(decode(data[:cut]), whole)  # nothing of the picture was cut off
        except (Truncated, NotMedia, UnsupportedCodec):
            raised += 1
    assert raised >= 80


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
@pytest.mark.parametrize("size", [(64, 96), (8, 8)])
def test_a_jpeg_that_breaks_off_is_never_half_grey(options: dict[str, object], size: tuple[int, int]) -> None:
    """Also where whoever cut it added the marker that ends a picture, which satisfies libjpeg."""
    data = save(landscape(300, 400), "JPEG", quality=90, **options)
    begin = data.rindex(b"\xff\xda") if "progressive" not in options else data.index(b"\xff\xda")
    for cut in np.linspace(begin + 20, len(data) - 30, 25).astype(int).tolist():
        with pytest.raises(Truncated):
            decode(data[:cut], *size)
        if data[cut - 1] != 0xFF:
            with pytest.raises(Truncated):
                decode(data[:cut] + b"\xff\xd9", *size)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"trailing garbage" * 50,
        lambda data: data + bytes(5000),
        lambda data: data + data,
        lambda data: data[:-2] + bytes(40) + data[-2:],
        lambda data: data[:11] + b"\x09" + data[12:],  # an unknown version of JFIF
    ],
    ids=["garbage", "zeros", "twice", "superfluous bytes", "version"],
)
def test_oddities_that_change_no_pixel_are_accepted(change: Callable[[bytes], bytes]) -> None:
    data = save(landscape(120, 160), "JPEG", quality=90)
    assert np.array_equal(decode(change(data), 120, 160), decode(data, 120, 160))


def test_random_damage_to_an_image_never_escapes_the_typed_errors() -> None:
    rng = np.random.default_rng(0)
    whole = [save(numbered(), format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")]
    whole.append(save(numbered().convert("CMYK"), "JPEG", exif=_exif(6)))
    whole.append(save(numbered(), "TIFF", compression="tiff_lzw"))
    decoder = ImageDecoder()
    for data in whole:
        for _ in range(150):
            changed = np.frombuffer(data, np.uint8).copy()
            where = rng.integers(0, min(len(changed), int(rng.choice([64, 400, 10**6]))), rng.integers(1, 6))
            changed[where] = rng.integers(0, 256, len(where))
            try:
                decoder.decode(io.BytesIO(changed.tobytes()), np.zeros(1), np.zeros((1, 8, 8, 3), np.uint8))
                probe(io.BytesIO(changed.tobytes()))
            except SampleError:
                continue


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xd8\xff", b"a text of some length, but no picture"])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises((NotMedia, Truncated)):
        decode(data)


def test_a_heif_picture_is_told_from_a_damaged_one() -> None:
    with pytest.raises(UnsupportedCodec, match="HEIF"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(1000))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_limits(format: str) -> None:
    data, out = save(numbered(), format), np.zeros((1, 8, 8, 3), np.uint8)
    for limits in (
        Limits(pixels_per_frame=96 * 64 - 1),
        Limits(bytes_per_sample=len(data) - 1),
        Limits(bytes_in_memory=len(data) - 1),
    ):
        with pytest.raises(TooLarge, match="the limit is"):
            ImageDecoder(limits).decode(io.BytesIO(data), np.zeros(1), out)
        with pytest.raises(TooLarge, match="the limit is"):
            probe(io.BytesIO(data), limits)
    ImageDecoder(Limits(pixels_per_frame=96 * 64, bytes_per_sample=len(data))).decode(
        io.BytesIO(data), np.zeros(1), out
    )


def test_an_image_beyond_the_limit_costs_no_memory() -> None:
    for size in (8193, 30_000):
        with pytest.raises(TooLarge):
            decode(_png_header(size, size))


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """A few bytes a scan, each of which costs a pass over the whole picture."""
    data = save(numbered(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(TooLarge, match="scans"):
        decode(data[:-2] + data[last:-2] * 500 + data[-2:])


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("failure", [OSError("the storage is away"), ConnectionError(104, "reset")])
def test_an_error_of_the_storage_is_no_sample_error(format: str, failure: OSError) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise failure

    for call in (lambda file: ImageDecoder().decode(file, np.zeros(1), np.zeros((1, 8, 8, 3), np.uint8)), probe):
        with pytest.raises(type(failure)):
            call(Broken(save(numbered(), format)))


# Memory


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_the_scaler_reads_nothing_behind_the_padding() -> None:
    """Pictures are put at the very end of the memory that may be read; what reads on is killed."""
    code = (
        "import ctypes, mmap; import numpy as np\n"
        "from headrace.data.decode.geometry import Orientation\n"
        "from headrace.data.decode.picture import Picture, PictureScaler, pixel_memory\n"
        "size, page = 1 << 16, mmap.PAGESIZE; memory = mmap.mmap(-1, size + page)\n"
        "start = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), page, 0) == 0\n"
        "readable = np.frombuffer(memory, np.uint8)[: size - pixel_memory(0).size]; scaler = PictureScaler()\n"
        "for width in [*range(16, 90), 100, 127, 129]:\n"
        "    for shape in [(h, width, *c) for h in (16, 17, 33) for c in ((3,), ())]:\n"
        "        pixels = readable[-int(np.prod(shape)):].reshape(shape)\n"
        "        for target in ((16, 16), (64, 64), (shape[0], width + 1), (17, 90)):\n"
        "            out = np.zeros((*target, 3), np.uint8)\n"
        "            scaler.write(Picture(pixels, Orientation(), *shape[:2]), out)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


# Real photographs

DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[4] / "shared" / "data")) / "road_defects"


@pytest.mark.skipif(not DATA.is_dir(), reason="real photographs are not here; HEADRACE_DATA names their folder")
def test_real_photographs_are_those_of_pillow() -> None:
    with tarfile.open(DATA / "road_defects_512.tar") as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")][::100]
        photos = [file.read() for member in members if (file := tar.extractfile(member))]
    assert len(photos) > 10
    for data in photos:
        picture = Image.open(io.BytesIO(data))
        for size in (32, 104, 128, 224, 512):
            assert error(decode(data, size, size)[0], exact(picture, size, size)) < 1
