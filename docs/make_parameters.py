"""Writes docs/zh/parameters.md and docs/en/parameters.md: every flag, its default and its help, from the dataclasses.

    python docs/make_parameters.py

The English help of a flag is the dataclass's; what is paddlenlp's own, and all Chinese, is in glm/texts.zh.json, which
--help in Chinese reads, too.
What is to be seen of a flag is in docs/effects.json, from which tests/scripts/test_effects.py runs every flag.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import dataclasses
import json

from glm import texts as spoken
from glm.command_line import all_fields, groups_of, is_required, shown_default

DOCS = Path(__file__).resolve().parent
LANGUAGES = ("zh", "en")
# In docs/effects.json, the order of texts in two languages.
LANGUAGES_OF_EFFECTS = ("en", "zh")
COLUMNS = {
    "zh": ("参数", "默认值", "作用", "改变什么"),
    "en": ("Parameter", "Default", "Effect", "What it changes"),
}
REQUIRED = {"zh": "必填", "en": "required"}
TITLE = {"zh": "# 参数", "en": "# Parameters"}


def classes_by_script():
    """{script: dataclasses that its flags come from}."""
    import export_generation_model
    import infer_generation
    import predict_generation
    import serve_generation
    from glm.inference import arguments as shared
    from glm.pairs import arguments as pairs
    from glm.training import arguments as training
    from glm.training import data_arguments as data

    finetune = (training.LoraArguments, training.GLMTrainingArguments)
    decoding = shared.ScoredDecodingArguments
    return {
        "finetune_generation.py": (training.ModelArguments, data.QuestionDataArguments, *finetune),
        "finetune_instruction_generation.py": (training.ModelArguments, data.InstructionDataArguments, *finetune),
        "export_generation_model.py": (export_generation_model.ExportArguments, decoding),
        "infer_generation.py": (
            infer_generation.ProgramArguments,
            shared.PromptArguments,
            infer_generation.LimitArguments,
        ),
        "predict_generation.py": (predict_generation.ModelArguments, shared.PromptArguments, decoding),
        "serve_generation.py": (serve_generation.ServerArguments, shared.DecodingArguments),
        "generate_pairs.py": (pairs.PairsModelArguments, pairs.DocumentArguments, pairs.PairsArguments),
    }


def sections(scripts):
    """[(names of the scripts, dataclass, title of the group, names of its flags)], each dataclass once."""
    users = {}
    for script, classes in scripts.items():
        for cls in classes:
            users.setdefault(cls, []).append(script)
    return [(users[cls], cls, *group) for cls in users for group in groups_of(cls).items()]


def help_of(cls, spec, language, texts):
    """What a flag does, in a language. Raises KeyError for a text that glm/texts.zh.json lacks."""
    if any(spec.name in vars(base).get("__annotations__", {}) for base in cls.__mro__ if is_ours(base)):
        text = " ".join(spec.metadata["help"].split())
        return text if language == "en" else texts["helps"][text]
    return texts["inherited"][spec.name][language]


def is_ours(cls):
    """Whether a class is this project's."""
    return not cls.__module__.startswith(("paddlenlp", "builtins"))


def change_of(script, name, language, effects):
    """What a flag of a script changes, in a language. Raises KeyError for one that docs/effects.json lacks."""
    scripts = [script, "finetune_generation.py"] if script.startswith("finetune_") else [script]
    effect = {name: effect for one in reversed(scripts) for name, effect in effects["flags"][one].items()}[name]
    at = LANGUAGES_OF_EFFECTS.index(language)
    return effects["on"][effect["on"]][at] if "on" in effect else effects["changes"][effect["changes"]][at]


def table(script, cls, names, language, texts):
    """The Markdown table of some of a dataclass's flags."""
    specs = {name: spec for name, (_, spec) in all_fields((cls,)).items()}
    rows = []
    for name in names:
        default = REQUIRED[language] if is_required(specs[name]) else f"`{written_default(specs[name])}`"
        help = help_of(cls, specs[name], language, texts).replace("|", "\\|")
        cells = f"`{name}`", default, help, change_of(script, name, language, texts["effects"])
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"| {' | '.join(COLUMNS[language])} |", "|---|---|---|---|", *rows])


def written_default(spec):
    """A flag's default as a table has it."""
    return '""' if shown_default(spec) == "" else shown_default(spec)


def page(language, texts):
    """The page of parameters in a language."""
    parts = [TITLE[language], texts["intro"][language]]
    for scripts, cls, title, names in sections(classes_by_script()):
        heading = title if language == "en" else texts["titles"][title]
        used = ", ".join(f"`{script}`" for script in scripts)
        mark = f"<!-- parameters: {' '.join(scripts)} -->"
        parts += [f"## {heading}", used, f"{mark}\n{table(scripts[0], cls, names, language, texts)}"]
    return "\n\n".join(parts) + "\n"


def read_texts():
    """glm/texts.zh.json: {"intro": texts, "titles" and "helps": {English: Chinese}, "inherited": {flag: texts}, …}, and
    docs/effects.json as "effects"."""
    return {**spoken.table(), "effects": json.loads((DOCS / "effects.json").read_text(encoding="utf8"))}


def superfluous(texts):
    """Texts of glm/texts.zh.json that no flag has, for the test that there are none."""
    titles, helps, inherited = set(), set(), set()
    for _, cls, title, names in sections(classes_by_script()):
        titles.add(title)
        helps |= {" ".join(spec.metadata.get("help", "").split()) for spec in dataclasses.fields(cls)}
        inherited |= set(names)
    return [*texts["titles"].keys() - titles, *texts["helps"].keys() - helps, *texts["inherited"].keys() - inherited]


def main():
    """Write both pages."""
    texts = read_texts()
    for language in LANGUAGES:
        (DOCS / language).mkdir(exist_ok=True)
        (DOCS / language / "parameters.md").write_text(page(language, texts), encoding="utf8")


if __name__ == "__main__":
    main()
