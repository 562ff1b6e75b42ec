"""What paddle downloads and unpacks stays in the directory that it unpacks it into; and nothing is downloaded where the
environment forbids it."""

import os
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import PurePosixPath

from glm.errors import UserError


class ArchiveError(UserError):
    """An archive wants to write where it must not; the message names what."""


class OfflineError(UserError):
    """Something would have to be downloaded, and the environment forbids it; the message is a part of a line."""


def is_offline():
    """Whether the environment forbids downloads, by the variables that Hugging Face's libraries obey."""
    values = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value in ("1", "ON", "YES", "TRUE") for value in values)


def check_archive(path):
    """Raise ArchiveError if unpacking an archive, zip or tar, would write outside of its directory, or make links and
    devices."""
    for name, is_plain in members(path):
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[:1] or not is_plain:
            raise ArchiveError(f"{path}: its member {name!r} would leave the directory; it is not unpacked")


def members(path):
    """(name, whether it is a plain file or directory) of all that is in an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # The upper half of external_attr is the mode, where Unix made the archive; of a link it begins with 12.
            return [(info.filename, info.external_attr >> 28 != 0o12) for info in archive.infolist()]
    with tarfile.open(path) as archive:
        return [(info.name, info.isfile() or info.isdir()) for info in archive]


@contextmanager
def contained_archives():
    """While this lasts, paddle unpacks what it downloads only if check_archive() has no objection. OfflineError is
    raised for downloads where is_offline()."""
    from paddle.utils import download

    unpack, methods = download._decompress, download._download_methods

    def checked(path):
        check_archive(path)
        return unpack(path)

    def forbidden(url, _):
        raise OfflineError("HF_HUB_OFFLINE forbids it")

    download._decompress = checked
    if is_offline():
        download._download_methods = {"get": forbidden}
    try:
        yield
    finally:
        download._decompress, download._download_methods = unpack, methods
