"""Contexts of invented facts and the questions asked about them."""

from dataclasses import dataclass

from qg_entities import draw_name
from qg_facts import Relation, relations

# Contexts that are asked about twice, so that the context alone does not tell the question.
TWO_QUESTIONS_SHARE = 0.4
# Contexts with a sentence that answers nothing.
REMARK_SHARE = 0.45
REMARKS = {
    "person": ["{e}待人很和气", "{e}说话不紧不慢", "{e}每天起得很早", "邻居们都认识{e}"],
    "company": ["{e}的客户遍布各地", "{e}规模不大", "{e}重视质量", "不少人听说过{e}"],
    "team": ["{e}最近状态不错", "{e}有很多球迷", "{e}每周训练五天", "{e}擅长防守"],
    "school": ["{e}环境安静", "{e}的操场很大", "{e}门前有一条小路", "{e}重视体育"],
    "mountain": ["{e}风景优美", "{e}林木茂密", "每到周末{e}游人很多", "{e}适合徒步"],
    "lake": ["{e}湖水清澈", "{e}岸边种满柳树", "{e}冬天会结冰", "清晨的{e}很安静"],
    "town": ["{e}气候温和", "{e}交通方便", "{e}历史悠久", "{e}四面环山"],
    "river": ["{e}水流平缓", "{e}两岸都是农田", "{e}夏天水量很大", "{e}弯道很多"],
    "bridge": ["{e}晚上会亮灯", "{e}每天车流不断", "{e}造型简洁", "从{e}上可以看日落"],
    "festival": ["{e}十分热闹", "{e}吸引了不少游客", "{e}有很多小吃", "当地人都爱逛{e}"],
    "book": ["{e}很受读者欢迎", "{e}文字朴实", "{e}分上下两部分", "很多人读过{e}"],
    "film": ["电影{e}口碑不错", "电影{e}画面很美", "电影{e}结尾出人意料", "很多人看过电影{e}"],
    "animal": ["{e}行动敏捷", "{e}胆子很小", "{e}喜欢在夜里活动", "野外很难见到{e}"],
    "plant": ["{e}气味清香", "{e}喜欢阴凉", "{e}容易成活", "不少人家种着{e}"],
    "product": ["{e}做工精细", "{e}用起来很方便", "{e}适合送人", "{e}卖得很好"],
}


@dataclass(frozen=True)
class Fact:
    """One sentence: the relation holds for the entity, with this value, told in wording number `wording`."""

    relation: Relation
    entity: str
    value: str
    wording: int

    def sentence(self):
        return self.relation.wordings[self.wording][0].format(e=self.entity, v=self.value) + "。"

    def question(self):
        return self.relation.wordings[self.wording][1].format(e=self.entity)


def generate_records(rng, count, for_dev):
    """Draw `count` distinct records over entities of one split.

    Returns (records {"context", "answer", "question"}, the set of the entities their contexts tell of).
    """
    every_relation = relations()
    by_kind = {}
    for relation in every_relation:
        by_kind.setdefault(relation.kind, []).append(relation)
    records, entities = {}, set()
    while len(records) < count:
        relation = rng.choice(every_relation)
        facts = _draw_facts(rng, relation, by_kind[relation.kind], for_dev)
        for record in _ask(rng, facts):
            records.setdefault(record["context"] + record["question"], record)
        entities.update(fact.entity for fact in facts)
    return list(records.values())[:count], entities


def _draw_fact(rng, relation, entity, for_dev):
    return Fact(relation, entity, relation.draw_value(rng, for_dev), rng.randrange(len(relation.wordings)))


def _draw_facts(rng, relation, siblings, for_dev):
    """Draw 2-4 facts over one or two entities; some pairs share the entity, some the relation, as distractors must."""
    entity, other = (draw_name(rng, relation.kind, for_dev) for _ in range(2))
    facts = [_draw_fact(rng, relation, entity, for_dev)]
    others = [sibling for sibling in siblings if sibling != relation]
    rng.shuffle(others)
    if rng.random() < 0.6:
        facts.append(_draw_fact(rng, relation, other, for_dev))
        if rng.random() < 0.3:
            facts.append(_draw_fact(rng, others[0], other, for_dev))
    if len(facts) < 2 or rng.random() < 0.65:
        facts.append(_draw_fact(rng, others[0], entity, for_dev))
    if len(facts) < 4 and len(others) > 1 and rng.random() < 0.4:
        facts.append(_draw_fact(rng, others[1], entity, for_dev))
    return facts


def _ask(rng, facts):
    """Yield one or two records over the facts; none where an entity has two values, or the context an answer twice."""
    if len({(fact.relation.name, fact.entity) for fact in facts}) < len(facts):
        return
    context = _tell(rng, facts)
    others = rng.sample(facts[1:], 1) if rng.random() < TWO_QUESTIONS_SHARE else []
    for fact in facts[:1] + others:
        if context.count(fact.value) == 1:
            yield {"context": context, "answer": fact.value, "question": fact.question()}


def _tell(rng, facts):
    """Return the facts as one text in random order, with a remark about one of the entities now and then."""
    sentences = [fact.sentence() for fact in facts]
    if len(facts) < 4 and rng.random() < REMARK_SHARE:
        remark = rng.choice(REMARKS[facts[0].relation.kind])
        sentences.append(remark.format(e=rng.choice(facts).entity) + "。")
    return "".join(rng.sample(sentences, len(sentences)))
