"""manifest.json: what a directory holds, by size and SHA-256, so that whatever is not as it was written is noticed.

A directory is written file by file and its manifest last. One without a manifest may be whole (published models have
none); one with a manifest is whole if all of it is as the manifest says.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

from glm import json_text
from glm.errors import UserError

FILE = "manifest.json"
FORMAT = 1
SEAL = '"sha256": "'
# Files that a loader would take weights from: one that is not listed was not there when the directory was written.
LOADED = (".safetensors", ".pdparams", ".bin")
BLOCK = 2**22
# Directories found whole by this process, each with what its files were like: nobody has to read them twice.
VERIFIED = {}
# Files that this process wrote, each with its measures and with what it was like then.
WRITTEN = {}


class DamageError(UserError):
    """A directory is not as it was written; the message names the file."""


def measured(path):
    """{"size", "sha256"} of a file, which is on the disk when this returns."""
    known, signature = WRITTEN.pop(os.path.realpath(path), (None, None))
    if known and signature == signature_of([path]):
        return known
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def remember(path, measures):
    """Take a file as on the disk and as having these measures for as long as nobody writes to it: for who hashed what
    was written."""
    WRITTEN[os.path.realpath(path)] = measures, signature_of([path])


def measured_files(directory, names=None):
    """{name: measured()} of files in a directory; default: of all but a manifest."""
    directory = Path(directory)
    if names is None:
        names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    names = sorted(set(names) - {FILE})
    # Hashing lets other threads run.
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: measured(directory / name), names), strict=True))


def write(directory, files, name=FILE, **facts):
    """Write the manifest of a directory, on the disk when this returns.

    files: {name: measured()}. facts: what else is worth knowing (step, arguments).
    """
    with open(Path(directory) / name, "w", encoding="utf8") as file:
        file.write(text_of({"format": FORMAT, "files": files, "versions": versions(), **facts}))
        file.flush()
        os.fsync(file.fileno())


def text_of(content):
    """A manifest as text, which ends with its own hash."""
    body = json_text.dumps(content, indent=1, default=str)
    return f'{body.removesuffix(chr(10) + "}")},\n {SEAL}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def content_of(text):
    """What text_of() made a text of. Raises ValueError for any other text."""
    body, seal, _ = text.rpartition(f",\n {SEAL}")
    content = json.loads(body + "\n}")
    if not seal or text_of(content) != text:
        raise ValueError("not sealed")
    return content


def versions():
    """{package: version} of what wrote a directory."""
    found = {}
    for package in ("paddlepaddle", "paddlepaddle-gpu", "paddlenlp", "safetensors", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read(directory, name=FILE):
    """A directory's manifest, None if it has none. Raises DamageError."""
    path = Path(directory) / name
    if not path.exists():
        return None
    try:
        content = content_of(path.read_bytes().decode("utf8"))
        files = {
            name: (entry["size"], entry["sha256"])
            for name, entry in content["files"].items()
            if isinstance(entry["size"], int) and isinstance(entry["sha256"], str)
        }
        sound = content["format"] == FORMAT and len(files) == len(content["files"]) and all(map(is_inside, files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DamageError(f"{path}: altered since it was written; is the directory whole?")
    return content


def identity(directory, name=FILE):
    """What a directory is known by: a hash of its files' names and contents, which its manifest has, or else they
    themselves. Raises DamageError, and OSError."""
    content = read(directory, name)
    files = content["files"] if content else measured_files(directory)
    measures = sorted((file, entry["size"], entry["sha256"]) for file, entry in files.items())
    return hashlib.sha256(json.dumps(measures).encode()).hexdigest()


def is_inside(name):
    """Whether a file name of a manifest stays in the directory."""
    path = PurePosixPath(name)
    return bool(name) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def verify(directory, required=False, name=FILE):
    """Raise DamageError unless a directory is as its manifest says; one without is taken as it is, unless required.

    Returns the manifest, or None.
    """
    directory = Path(directory)
    content, place = read(directory, name), directory / name
    if content is None:
        if required:
            raise DamageError(f"{place} is missing; the directory was never finished, or was altered")
        return None
    files = content["files"]
    # Of programs, a directory may hold several; and without a manifest they are not run.
    remedy = "put it back as it was, or export it again"
    if name == FILE:
        remedy = f"put it back as it was, or, if you meant the change, delete {place}"
        check_listed(directory, files, remedy)
    for file, entry in files.items():
        check_size(directory / file, entry["size"], remedy)
    signature = signature_of([directory / file for file in (*sorted(files), name)])
    if VERIFIED.get(place.resolve()) != signature:
        for file, found in measured_files(directory, files).items():
            if found["sha256"] != files[file]["sha256"]:
                raise DamageError(f"{directory / file}: altered since it was written; {remedy}")
        VERIFIED[place.resolve()] = signature
    return content


def check_listed(directory, files, remedy):
    """Raise DamageError if a directory has weights that are not among these files."""
    unlisted = sorted(path.name for path in directory.iterdir() if path.suffix in LOADED and path.name not in files)
    if unlisted:
        raise DamageError(f"{directory / unlisted[0]}: not in {FILE}; {remedy}")


def check_size(path, size, remedy):
    """Raise DamageError unless there is a file of this size."""
    if not path.is_file():
        raise DamageError(f"{path} is missing; {remedy}")
    found = path.stat().st_size
    if found != size:
        kind = "empty" if found == 0 else "truncated" if found < size else "altered"
        raise DamageError(f"{path}: {kind} ({found} of {size} bytes); {remedy}")


def signature_of(paths):
    """What shows that nobody has written to files: sizes, times and places on the disk."""
    stats = [os.stat(path) for path in paths]
    return [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats]
