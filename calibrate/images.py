"""Images in a folder or a zip archive, decoded one by one when they are asked for."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ptqc.calibrate.arrays import DAMAGED, MAX_MEMBERS, RowReader
from ptqc.calibrate.labels import labels_by_name, parse_label_table, read_label_table
from ptqc.calibrate.preprocess import Preprocessing, apply, completed, final_shape, final_size
from ptqc.calibrate.source import InputSpec
from ptqc.calibrate.tables import Table, TableSource, open_tables
from ptqc.core.errors import DataError
from ptqc.core.types import Array

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 100_000_000
LABEL_FILE = "labels.csv"

ReadBytes = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files in a folder or a zip archive.

    Attributes:
        path: the folder or the archive.
        names: relative names with forward slashes, in the order in which they are used.
        labels: int64 [names], or None.
    """

    path: Path
    names: tuple[str, ...]
    labels: Array | None

    @contextmanager
    def open(self) -> Iterator[ReadBytes]:
        """A function that gives the bytes of a file by its name."""
        with _reader(self.path) as read:
            yield read


def is_image(name: str) -> bool:
    """Whether a file looks like an image by its name, and is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(
        part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts
    )


def list_names(path: Path) -> list[str]:
    """Relative names of the files in a folder (links to folders are not followed) or zip archive, sorted."""
    if not path.is_dir():
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError("this is no readable zip archive", where=str(path), why=str(error)) from error
        except OSError as error:
            raise DataError("the file cannot be read", where=str(path), why=str(error.strerror or error)) from error
    else:
        names = []
        for folder, _, files in os.walk(path):
            names += [(Path(folder, name).relative_to(path)).as_posix() for name in files]
            if len(names) > MAX_MEMBERS:
                break
    if len(names) > MAX_MEMBERS:
        raise DataError("there are too many files", where=str(path), why=f"at most {MAX_MEMBERS} are read")
    return sorted(names, key=lambda name: PurePosixPath(name).parts)


@contextmanager
def _reader(path: Path) -> Iterator[ReadBytes]:
    if path.is_dir():
        yield lambda name: _limited(path / name, (path / name).stat().st_size, lambda: (path / name).read_bytes())
        return
    with zipfile.ZipFile(path) as archive:
        # A member is decompressed up to the size that the archive claims, and that is limited.
        yield lambda name: _limited(path / name, archive.getinfo(name).file_size, lambda: archive.read(name))


def _limited(where: Path, size: int, read: Callable[[], bytes]) -> bytes:
    if size > MAX_FILE_BYTES:
        raise DataError("the file is larger than 256 MiB", where=str(where), fix="leave it out")
    try:
        return read()
    except (*DAMAGED, OSError) as error:
        raise DataError("the file cannot be read", where=str(where), why=str(error)) from error


def find_images(path: Path, labels: Path | None) -> tuple[ImageFiles, tuple[str, ...]]:
    """The images of a folder or zip archive with their labels, and notes.

    Labels come from ``labels``, a file with the columns file and label, from such a ``labels.csv`` among the images or
    beside the archive, or from class folders: the number that names them all, or else their place in the sorted list.

    Raises DataError for no images at all, or images without label.
    """
    names = list_names(path)
    images = tuple(name for name in names if is_image(name))
    if not images:
        raise DataError(
            "there are no images", where=str(path), fix=f"give files that end in {', '.join(SUFFIXES[:4])}..."
        )
    if labels is not None:
        return ImageFiles(path, images, labels_by_name(read_label_table(labels), images, str(labels))), ()
    inside = next((name for name in names if PurePosixPath(name).name == LABEL_FILE), None)
    if inside is not None:
        with _reader(path) as read:
            table = parse_label_table(read(inside), str(path / inside))
        return ImageFiles(path, images, labels_by_name(table, images, str(path / inside))), ()
    beside = path.with_name(LABEL_FILE)
    if not path.is_dir() and beside.is_file():
        found = labels_by_name(read_label_table(beside), images, str(beside))
        return ImageFiles(path, images, found), (f"labels were taken from {beside}",)
    return _class_folders(path, images)


def _class_folders(path: Path, images: tuple[str, ...]) -> tuple[ImageFiles, tuple[str, ...]]:
    parents = [PurePosixPath(name).parts[:-1] for name in images]
    depth = 0  # the archive may hold one folder around all others
    while len({parts[depth : depth + 1] for parts in parents}) == 1 and len(parents[0]) > depth:
        depth += 1
    folders = [parts[depth] if len(parts) > depth else "" for parts in parents]
    classes = sorted(set(folders))
    if len(classes) < 2 or "" in classes:
        return ImageFiles(path, images, None), ()
    numbers = {name: index for index, name in enumerate(classes)}
    how = "places in the sorted list"
    if all(name.isascii() and name.isdecimal() for name in classes):
        numbers, how = {name: int(name) for name in classes}, "numbers"
    # One image of each class in turn, so that a limited number of samples holds as many classes as possible.
    place: dict[str, int] = {}
    keys = []
    for index, folder in enumerate(folders):
        place[folder] = place.get(folder, -1) + 1
        keys.append((place[folder], index))
    order = [index for _, index in sorted(keys)]
    labels = np.asarray([numbers[folders[index]] for index in order], np.int64)
    note = f"labels are the {how} of the {len(classes)} class folders, from which images were taken in turn"
    return ImageFiles(path, tuple(images[index] for index in order), labels), (note,)


def open_images(
    path: Path, spec: InputSpec, steps: Preprocessing | None, labels: Path | None, limit: int | None
) -> TableSource:
    """A source over the images of a folder or zip archive.

    Raises DataError where the model takes no images, for damaged files (when they are read) and missing labels.
    """
    files, notes = find_images(path, labels)
    done, assumed = completed(steps, spec)

    def tables() -> Iterator[Table]:
        if done.crop is not None or (done.resize_mode == "exact" and done.resize is not None):
            rows = ImageRows(
                files, done, spec.dtype, (len(files.names), *final_shape(done, done.crop or done.resize or (1, 1)))
            )
            yield Table(str(path), {spec.name: rows}, files.labels)
            return
        with files.open() as read:  # sizes differ, so each image is a table of its own
            for index, name in enumerate(files.names):
                with decoded(read(name), f"{path}/{name}") as image:
                    size = final_size(done, (image.height, image.width))
                label = None if files.labels is None else files.labels[index : index + 1]
                one = ImageFiles(path, (name,), label)
                yield Table(
                    f"{path}/{name}",
                    {spec.name: ImageRows(one, done, spec.dtype, (1, *final_shape(done, size)))},
                    label,
                )

    def fingerprint(size: int) -> str:
        total = hashlib.sha256(f"{spec.name} {spec} {done.text()}".encode())
        with files.open() as read:
            for name in files.names[:size]:
                total.update(hashlib.sha256(read(name)).digest())
        return total.hexdigest()

    return open_tables(str(path), (spec,), tables, limit, (*notes, *assumed), fingerprint)


@contextmanager
def decoded(data: bytes, where: str) -> "Iterator[Image.Image]":
    """The image in ``data``, of a format that photographs come in. DataError for anything else, or a huge one."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"the image has {image.width}x{image.height} pixels", where=where, why="that is too many"
                )
            yield image
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow raises all of these for damaged files.
        raise DataError("the image is damaged, or of no known format", where=where, why=str(error)) from error


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows:
    """Preprocessed images as rows of an array of one shape."""

    files: ImageFiles
    steps: Preprocessing
    wanted: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, or uint8 where the model takes integers."""
        return np.dtype(np.float32) if self.wanted.kind not in "iu" else np.dtype(np.uint8)

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Decodes from the first image."""
        with self.files.open() as read:
            yield _ImageReader(self, read)


class _ImageReader:
    def __init__(self, rows: ImageRows, read: ReadBytes) -> None:
        self.rows, self.read_file, self.at = rows, read, 0

    def read(self, rows: int) -> Array:
        values = np.empty((rows, *self.rows.shape[1:]), self.rows.dtype)
        for index in range(rows):
            name = self.rows.files.names[self.at + index]
            where = f"{self.rows.files.path}/{name}"
            with decoded(self.read_file(name), where) as image:
                values[index] = apply(self.rows.steps, image, where)
        self.at += rows
        return values
