"""Whole documents of invented facts, of several passages each."""

from qg_entities import draw_name
from qg_facts import relations
from qg_records import REMARKS, Fact

# File → (title, kinds of entities that its sections are about, paragraphs of each).
DOCUMENTS = {
    "places.md": ("山水之间", ("mountain", "lake", "town", "river", "bridge"), 3),
    "people.txt": ("身边的人", ("person", "team", "school", "company"), 4),
    "goods.md": ("书影与物产", ("book", "film", "product", "animal", "plant"), 3),
}
HEADINGS = {
    "mountain": "名山",
    "lake": "湖泊",
    "town": "小镇",
    "river": "河流",
    "bridge": "桥梁",
    "person": "邻里",
    "team": "球队",
    "school": "学校",
    "company": "公司",
    "book": "新书",
    "film": "电影",
    "product": "日用",
    "animal": "动物",
    "plant": "植物",
}


def generate_documents(rng):
    """{file name: text} of DOCUMENTS, about entities of the dev split; Markdown has a heading for each section."""
    by_kind = {}
    for relation in relations():
        by_kind.setdefault(relation.kind, []).append(relation)
    found = {}
    for name, (title, kinds, count) in DOCUMENTS.items():
        mark = "#" if name.endswith(".md") else ""
        parts = [f"{mark} {title}".strip()]
        for kind in kinds:
            parts.append(f"{mark * 2} {HEADINGS[kind]}".strip())
            parts += [paragraph(rng, kind, by_kind[kind]) for _ in range(count)]
        found[name] = "\n\n".join(parts) + "\n"
    return found


def paragraph(rng, kind, siblings):
    """All that is known of an entity, in random order, with a remark."""
    entity = draw_name(rng, kind, True)
    facts = [Fact(one, entity, one.draw_value(rng, True), rng.randrange(len(one.wordings))) for one in siblings]
    sentences = [fact.sentence() for fact in facts] + [rng.choice(REMARKS[kind]).format(e=entity) + "。"]
    return "".join(rng.sample(sentences, len(sentences)))
