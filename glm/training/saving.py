"""Saving of checkpoints: whole or not at all, by one process or by many, in the foreground or beside the training.

checkpoint-N is written as .checkpoint-N.partial, file by file, each on the disk before the manifest is, and renamed
when all of it is there; older checkpoints go afterwards. Whatever ends a run, and whenever: every checkpoint-N is
whole.
"""

import errno
import os
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

from glm.errors import RunError, UserError
from glm.files import manifest
from glm.files.atomic import publish, remove_abandoned, replaced_files
from glm.files.guarded import reason_of
from glm.training.memory import GIB

NAME = re.compile(r"checkpoint-(\d+)")
# Files that a checkpoint has: its manifest, and what paddlenlp calls the state of its Trainer.
MARKS = (manifest.FILE, "trainer_state.json")
LEFT_OVER = ".checkpoint-*"
# Beside arrays: configuration, tokenizer, logs so far.
SMALL_FILES = 16 * 2**20


class SaveError(RunError):
    """A checkpoint could not be saved; the message says why, in one line."""


class Saver:
    """Writes the checkpoints of a run.

    limit: so many checkpoints are kept, all without a limit. background: whether files are written beside the training.
    size, rank: of the processes that save together; gather: gives each the list of all their objects. They call the
    methods together.
    """

    def __init__(self, output_dir, *, limit=None, background=False, size=1, rank=0, gather=None):
        self.output_dir, self.limit, self.background = Path(output_dir), limit, background
        self.size, self.rank, self.is_first = size, rank, rank == 0
        self.gather = gather or (lambda item: [item])
        self.pending = None

    def save(self, step, write, needed, facts, keep=()):
        """Save checkpoint-`step`; in the background, begin to. Raises SaveError, also for an earlier one.

        write: called with an empty directory, writes this process's files into it. needed: bytes of these.
        facts: for the manifest. keep: directories that the limit does not remove.
        """
        self.wait()
        workshop = self.output_dir / f".checkpoint-{step}.partial"
        needed = sum(self.gather(needed)) + SMALL_FILES
        self.agree(lambda: self.begin(workshop, needed) if self.is_first else None)
        self.pending = Pending(step, workshop, self.rank, write, needed, facts, keep)
        if self.background:
            # Alone, the thread also publishes; several have to agree, and do so when all are ready.
            work = self.pending.write if self.size > 1 else self.write_and_publish
            self.pending.start(work)
        else:
            self.pending.write()
            self.wait()

    def directory_of(self, step):
        """Where the checkpoint of a step is, or would be."""
        return self.output_dir / f"checkpoint-{step}"

    def begin(self, workshop, needed):
        """Make the directory to write into, if there is room for so many bytes."""
        check_room(self.output_dir, needed)
        shutil.rmtree(workshop, ignore_errors=True)
        workshop.mkdir(parents=True)

    def write_and_publish(self):
        """Write and publish the checkpoint under way."""
        pending = self.pending
        pending.write()
        if pending.error is None:
            pending.attempt(lambda: self.publish(pending, pending.files))

    @property
    def is_ready(self):
        """Whether this process has nothing left to write of what it began."""
        return self.pending is None or not self.pending.is_running

    @property
    def is_busy(self):
        """Whether a checkpoint is begun and not yet there."""
        return self.pending is not None

    def wait(self):
        """Have what was begun published. Raises SaveError."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        pending.join()
        try:
            if not (self.background and self.size == 1):
                self.agree(pending.check)
                parts = self.gather(pending.files)
                if self.is_first:
                    files = {name: entry for part in parts for name, entry in part.items()}
                    pending.attempt(lambda: self.publish(pending, files))
            self.agree(pending.check)
        finally:
            if self.is_first:
                shutil.rmtree(pending.workshop, ignore_errors=True)

    def join(self):
        """Have this process's part of what was begun written; alone, it is published then."""
        if self.pending is not None:
            self.pending.join()

    def agree(self, action, *arguments):
        """Do something; if it fails on any process, raise SaveError on all."""
        error = None
        try:
            action(*arguments)
        except (OSError, UserError, RunError) as failure:
            error = reason_of(failure)
        for found in self.gather(error):
            if found is not None:
                raise SaveError(f"{found}; {self.last_whole()}")

    def publish(self, pending, files):
        """Make the checkpoint of what was written, and remove what the limit does not allow."""
        target = self.directory_of(pending.step)
        manifest.write(pending.workshop, files, step=pending.step, **pending.facts)
        os.chmod(pending.workshop, 0o755)
        if target.exists():
            # One that is damaged: the run would not be here again otherwise.
            self.remove(target)
        publish(pending.workshop, target)
        self.prune([target, *pending.keep])

    def prune(self, keep):
        """Remove the oldest checkpoints over the limit; keep: those that stay."""
        if not self.limit or self.limit < 1:
            return
        kept, found = {Path(path).name for path in keep}, checkpoints(self.output_dir)
        others = [path for path in found if path.name not in kept]
        for old in others[: max(0, len(found) - self.limit)]:
            self.remove(old)

    def remove(self, directory):
        """Remove a checkpoint, at once as far as others see it."""
        doomed = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        directory.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def last_whole(self):
        """What is there to go on from, in words."""
        found = checkpoints(self.output_dir)
        return f"{found[-1]} is whole" if found else "there is no earlier checkpoint"


class Pending:
    """A checkpoint under way: this process's part of it."""

    def __init__(self, step, workshop, rank, writer, needed, facts, keep):
        self.step, self.workshop, self.rank, self.writer, self.needed = step, workshop, rank, writer, needed
        self.facts, self.keep = facts, keep
        self.files, self.error, self.thread = {}, None, None

    def write(self):
        """Write the files, and have them on the disk."""
        self.attempt(self.write_files)

    def write_files(self):
        """See write(). In a directory of this process's own first, to know which they are."""
        own = self.workshop / f".rank{self.rank}"
        own.mkdir()
        self.writer(own)
        self.files = manifest.measured_files(own)
        for name in self.files:
            (own / name).rename(self.workshop / name)
        own.rmdir()

    def attempt(self, action):
        """Do something and remember how it failed."""
        try:
            action()
        except OSError as error:
            self.error = SaveError(reason_of(error) + self.missing_room(error))
        except Exception as error:
            self.error = error

    def missing_room(self, error):
        """How much a full disk lacks, in words; nothing for another error."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return ""
        written = sum(path.stat().st_size for path in self.workshop.rglob("*") if path.is_file())
        missing = self.needed - written - shutil.disk_usage(self.workshop).free
        return f": {self.needed / GIB:.3f} GiB are needed, {max(missing, 0) / GIB:.3f} GiB of them are missing"

    def check(self):
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error

    def start(self, work):
        """Do the work in a thread."""
        self.thread = threading.Thread(target=work, name=f"checkpoint-{self.step}")
        self.thread.start()

    @property
    def is_running(self):
        """Whether the thread is at work."""
        return self.thread is not None and self.thread.is_alive()

    def join(self):
        """Wait for the thread."""
        if self.thread is not None:
            self.thread.join()


@contextmanager
def result(output_dir, needed, facts):
    """Context with a directory, whose files become those of output_dir when it ends. Raises SaveError.

    needed: bytes of them. facts: for the manifest.
    """
    try:
        check_room(output_dir, needed + SMALL_FILES)
        with replaced_files(output_dir, facts) as workshop:
            yield workshop
    except (OSError, SaveError) as error:
        found = checkpoints(output_dir)
        there = f"what was trained is in {found[-1]}" if found else "what was trained is lost: there is no checkpoint"
        raise SaveError(f"{reason_of(error)}; {there}") from None


def check_room(directory, needed):
    """Raise SaveError if the disk of a directory has less than so many bytes."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SaveError(
            f"{directory}: a save needs {needed / GIB:.3f} GiB and the disk has {free / GIB:.3f} GiB: "
            f"{(needed - free) / GIB:.3f} GiB are missing"
        )


def checkpoints(output_dir):
    """The directories checkpoint-N that a run has written, in the order of their steps. What else has such a name is
    somebody's own."""
    return sorted(filter(is_checkpoint, Path(output_dir).glob("checkpoint-*")), key=step_of)


def is_checkpoint(path):
    """Whether a run has written a directory, be it whole or not."""
    own = NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    return bool(own) and any((path / name).is_file() for name in MARKS)


def step_of(checkpoint):
    """The step of a directory checkpoint-N."""
    return int(NAME.fullmatch(checkpoint.name)[1])


def began_at(checkpoint):
    """The absolute path of the checkpoint that the run of another one (a directory, or None) began at by
    --resume_from_checkpoint, or None."""
    return (manifest.read(checkpoint) or {}).get("began_at") if checkpoint else None


def clean(output_dir):
    """Remove what an interrupted run left behind."""
    remove_abandoned(output_dir)
    for path in Path(output_dir).glob(LEFT_OVER):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def newest_whole(output_dir, warn):
    """The newest checkpoint-N that is as it was written, None if there are none; warn is called with a line for each
    that is not. Raises UserError if there are only such."""
    found = checkpoints(output_dir)
    for path in reversed(found):
        try:
            manifest.verify(path, required=True)
        except manifest.DamageError as error:
            warn(f"{path} is not used: {error}")
        else:
            return path
    if found:
        raise UserError(
            f"{output_dir}: none of its {len(found)} checkpoints is whole; --overwrite_output_dir removes them and "
            "starts anew"
        )
    return None
