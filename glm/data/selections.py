"""Which examples of a data file, and what they are made of: its kind, its columns and a template → Examples."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from glm.data.columns import check_columns, check_fields, unknown
from glm.data.kinds import JSON, PAIR, TEXT, WITH_FIELDS, files_of, kind_of
from glm.data.nested_sets import with_first_answer
from glm.data.records import Part, ReadReport, first_objects, iter_records, iter_texts
from glm.data.templates import NAMED, TASKS, TEMPLATES, Example, Template, earlier_turns, own_template
from glm.data.validation import DataError, Fields, Unclear
from glm.files import json_object

# So many records say which columns a file has.
LOOKED_AT = 100
# Where a prompt of one's own does not say what it asks for, the first of these that it does not hold.
TARGETS = ("target", "question", "output")


@dataclass(frozen=True)
class Selection:
    """Which examples of a file, and what is made of them.

    Records with named fields go through the named template, or through `prompt`, one's own; so do lines of plain text
    (only without need_target) as instructions, or as what a prompt has one placeholder for. Other .source/.target pairs
    and other text already are prompts, one a line, and are taken as they are.

    max_samples: only the first so many. on_bad_data: "error" or "skip". part: records.Part, the records that belong to
    it; None for all. with_history: see earlier_turns(). tasks: of templates.TASKS, instead of the template: a record is
    an example for each that it has the fields of, and max_samples counts records. columns: (field, column) of fields
    that have another name in the file. normalize: see normalization. keep_records: whether examples have their
    record's text.
    """

    path: Path
    template: str
    need_target: bool = True
    on_bad_data: str = "error"
    max_samples: int | None = None
    part: Part | None = None
    with_history: bool = False
    columns: tuple[tuple[str, str], ...] = ()
    prompt: str | None = None
    normalize: str = "off"
    keep_records: bool = False
    tasks: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return files_of(self.path)

    @property
    def kind(self) -> str:
        """What the file is, see kinds. Raises DataError."""
        return kind_of(self.path, [column for _, column in self.columns])

    def examples(self, report: ReadReport) -> Iterator[Example]:
        """The examples, one at a time: what is not yet asked for is not yet read. Raises UserError."""
        if self.tasks:
            return self._task_examples(report)
        return islice(self._all_examples(report), self.max_samples)

    def _task_examples(self, report):
        templates = {task: replace(TASKS[task], normalize=self.normalize) for task in self.tasks}
        groups = {task: (*template.required, template.target) for task, template in templates.items()}
        known = tuple(dict.fromkeys(name for group in groups.values() for name in group))
        if self.kind not in WITH_FIELDS:
            raise DataError(f"{self.path}: is {self.kind}, which has no fields; --tasks needs records that have them")
        check_fields(self.columns, (*known, "target"))
        # What --columns calls the target is that of asking.
        columns = tuple(("question" if field == "target" else field, column) for field, column in self.columns)
        fields = Fields((), known, with_first_answer, columns, tuple(groups.values()))
        records = iter_records(self.path, fields, self.on_bad_data, report, self.part)
        for record in islice(records, self.max_samples):
            for task, template in templates.items():
                if all(record.fields[name].strip() for name in groups[task]):
                    yield template.example(
                        record.fields, task=task, record_id=record.fields.get("id"), place=record.place
                    )

    def _all_examples(self, report):
        kind = self.kind
        template = replace(chosen_template(self, kind), normalize=self.normalize)
        if kind == TEXT and not self.need_target:
            records = iter_texts(self.path, self.on_bad_data, report, template.required[0])
        else:
            records = iter_records(self.path, template.fields(self.need_target), self.on_bad_data, report, self.part)
        for record in records:
            example = template.example(
                record.fields,
                record_id=record.fields.get("id"),
                place=record.place,
                record=spelled(record.original) if self.keep_records else None,
            )
            if self.with_history:
                yield from earlier_turns(example)
            yield example


def spelled(original) -> str:
    """The JSON text of a record as its file has it; see records.Record."""
    return original if isinstance(original, str) else json_object.dumps(original)


def chosen_template(selection: Selection, kind: str) -> Template:
    """The Template of a Selection, held against the columns that its file has. Raises UserError."""
    if kind not in WITH_FIELDS:
        return template_of_lines(selection, kind)
    template, columns = NAMED[selection.template], selection.columns
    if not (columns or selection.prompt or kind != JSON):
        return template
    objects = first_objects(selection.path, LOOKED_AT, columns)
    if selection.prompt:
        template = own_template(selection.prompt)
        check_fields(columns, template.known)
        target = own_target(template, columns, objects)
        template = replace(template, target=target)
    else:
        check_fields(columns, template.known)
    if "target" in dict(columns):
        columns = tuple((template.target if field == "target" else field, column) for field, column in columns)
    template = replace(template, columns=columns)
    if objects:
        plain = replace(template, columns=())
        present = dict.fromkeys(key for content in objects for key in (*content, *named(plain, content)))
        check_columns(selection.columns, present, selection.path)
        check_required(template, objects, selection)
    return template


def template_of_lines(selection: Selection, kind: str) -> Template:
    """The Template of text without named fields: a pair, or plain text. Raises UserError."""
    if selection.columns:
        raise DataError(
            f"{selection.path}: is {kind}, which has no columns; leave --columns out, or call a table .csv or .tsv"
        )
    if selection.prompt:
        template = own_template(selection.prompt)
        has = ("source", "target") if kind == PAIR else template.required[:1]
        if missing := [name for name in template.required if name not in has]:
            raise DataError(f"{selection.path}: is {kind}, which has no {{{missing[0]}}} of --prompt; give records")
        return template
    # A line may be an instruction; whatever else it would be, it is a prompt already.
    return TEMPLATES["instruction" if kind == TEXT and selection.template == "instruction" else "text"]


def own_target(template: Template, columns, objects) -> str:
    """The field that a prompt of one's own asks for. Raises DataError if it stands in the prompt."""
    sources = dict(columns)
    if "target" in sources:
        names = (*template.required, *template.optional)
        if shown := [name for name in names if sources.get(name, name) == sources["target"]]:
            raise DataError(f"--columns target={sources['target']}: --prompt shows it as {{{shown[0]}}}")
        return "target"
    names = {name for content in objects for name in named(template, content)}
    others = (name for name in TARGETS if name in names and name not in (*template.required, *template.optional))
    return next(others, "target")


def check_required(template: Template, objects, selection: Selection) -> None:
    """Raise DataError for a field that none of a file's first records has."""
    present = dict.fromkeys(name for content in objects for name in named(template, content))
    for name in template.fields(selection.need_target).required:
        if name in present:
            continue
        if selection.prompt and name != template.target:
            raise DataError(
                f"{selection.path}: --prompt: {unknown('no column', name, present, 'there are')}; mend the "
                f"placeholder, or give --columns {name}=…"
            )
        told = unknown("no column", name, present, "there are")
        raise DataError(f"{selection.path}: {told}; give the one that is meant: --columns {name}=…")


def named(template: Template, content: dict) -> dict:
    """An unchecked record with its fields under their own names, as far as that is clear."""
    try:
        return template.fields(need_target=False).named(content)
    except Unclear:
        return {**content, **dict.fromkeys((*template.required, template.target))}


def template_of(path, otherwise: str, columns=()) -> str:
    """Name of the template that fits a file's first record, by the fields it has; else `otherwise`."""
    kind = kind_of(path, [column for _, column in columns])
    objects = first_objects(path, 1, columns) if kind in WITH_FIELDS else []
    for name, template in TEMPLATES.items():
        known = tuple((field, column) for field, column in columns if field in template.known)
        if objects and set(template.required) <= named(replace(template, columns=known), objects[0]).keys():
            return name
    return otherwise


def load_examples(
    path, template: str, need_target: bool = True, on_bad_data: str = "error", max_samples: int | None = None, **more
) -> tuple[list[Example], ReadReport]:
    """The examples of a Selection as a list, and the reader's report; more: other fields of it. Raises UserError."""
    report = ReadReport(str(path))
    return list(Selection(path, template, need_target, on_bad_data, max_samples, **more).examples(report)), report
