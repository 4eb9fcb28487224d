"""Where pictures come from: folders, CSV lists, tar archives, Parquet files; in a fixed order.

An `Entry` says where a picture is, and is small: it can be sent to other processes, which read it
there. Nothing is held of the rest, so a source may be of any length.
"""

import csv
import os
import tarfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from image_utils import has_ending_of_image

LISTING = "names, sizes and times of pictures"  # a setting, by which others are known
ENDINGS = (".csv", ".tar", ".parquet")


class File(NamedTuple):
    path: str

    def read(self) -> bytes:
        if not os.path.isfile(self.path):
            raise FileNotFoundError("there is no such file")
        return Path(self.path).read_bytes()


class Member(NamedTuple):
    """Of a tar archive: where its bytes lie in it."""

    archive: str
    start: int
    length: int

    def read(self) -> bytes:
        with open(self.archive, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)


class Cell(NamedTuple):
    """Of a Parquet file's column of pictures."""

    table: str
    row: int

    def read(self) -> bytes:
        from dataset.tables import column_of

        return column_of(self.table).at(self.row)


class Entry(NamedTuple):
    """A picture of a source.

    id: its number in the order of all. path: what it is called, relative to its source.
    """

    id: int
    path: str
    where: File | Member | Cell


def is_source(path: str | Path) -> bool:
    """Whether it holds pictures, and is none itself."""
    return os.path.isdir(path) or Path(path).suffix.lower() in ENDINGS  # a prompt may be no path


def entries(sources: Sequence[str | Path], skipped: Path | None = None) -> Iterator[Entry]:
    """The pictures of sources, one after the other; each source in the order of its names, or of
    its rows.

    skipped: a folder in which none is looked for, since what is made of them goes there. Hidden
    files and folders are passed over, and links to folders not followed. Raises OSError or
    ValueError for a source that cannot be read.
    """
    number = 0
    for source in sources:
        for path, where in found_in(Path(source).absolute(), skipped):
            yield Entry(number, printable(path), where)
            number += 1


def printable(path: str) -> str:
    """Names of files may be of any bytes, which are told by their numbers."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def listing(sources: Sequence[str | Path], skipped: Path | None) -> tuple[int, str]:
    """How many entries there are, and a digest of their names and places, and of when what they are
    in was written: another picture of the same name is another.
    """
    count, digest = 0, sha256()
    for entry in entries(sources, skipped):
        digest.update(repr((entry.path, entry.where[1:], written(entry.where[0]))).encode())
        count += 1
    return count, digest.hexdigest()


def written(path: str) -> tuple[int, int] | None:
    """The size of a file and when it was written, or None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a list may name anything
        return None
    return found.st_size, found.st_mtime_ns


def found_in(source: Path, skipped: Path | None) -> Iterator[tuple[str, File | Member | Cell]]:
    if source.is_dir():
        return in_folder(source, "", skipped)
    if not source.is_file():
        raise FileNotFoundError(f"no folder or file {source}")
    return {".csv": in_list, ".tar": in_archive, ".parquet": in_table}[source.suffix.lower()](
        source
    )


def in_folder(folder: Path, before: str, skipped: Path | None) -> Iterator[tuple[str, File]]:
    """Of a folder's own files the names are held, 150 MB for a million, and of folders in it."""
    with os.scandir(folder) as found:
        seen = (one for one in found if not one.name.startswith("."))
        names = [
            one.name + "/" * folders
            for one in seen
            if (folders := one.is_dir(follow_symlinks=False)) or has_ending_of_image(one.name)
        ]
    names.sort(key=lambda name: name.rstrip("/"))
    for name in names:
        path = os.path.join(folder, name.rstrip("/"))
        if not name.endswith("/"):
            yield before + name, File(path)
        elif skipped is None or not (skipped.exists() and os.path.samefile(path, skipped)):
            yield from in_folder(Path(path), before + name, skipped)


def in_list(source: Path) -> Iterator[tuple[str, File]]:
    """A CSV file with a column `path`, of paths from the file's folder on."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        try:
            if "path" not in (rows.fieldnames or []):
                raise ValueError(
                    f"{source} must have a column called path; its columns are "
                    f"{', '.join(rows.fieldnames or []) or 'none'}"
                )
            for row in rows:
                path = row["path"] or ""
                yield path, File(str(source.parent / path))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{source} is no CSV file in UTF-8: {error}") from error


def in_archive(source: Path) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                archive.members.clear()  # or it would hold all it has seen
                if member.isreg() and has_ending_of_image(member.name):
                    place = Member(str(source), member.offset_data, member.size)
                    yield f"{source.name}/{member.name}", place
    except tarfile.TarError as error:
        raise ValueError(
            f"{source} is no whole tar archive without compression: {error}"
        ) from error


def in_table(source: Path) -> Iterator[tuple[str, Cell]]:
    from dataset.tables import column_of

    count = column_of(str(source)).file.metadata.num_rows
    return ((f"{source.name}/{row}", Cell(str(source), row)) for row in range(count))
