"""The relations of the question generation demo set: what can be said and asked about an entity."""

# ruff: noqa: SIM905 (a word list reads best on one line)
from collections.abc import Callable
from dataclasses import dataclass

from qg_entities import draw_name

JOBS = "医生 教师 律师 厨师 画家 司机 记者 护士 会计 木匠 作家 农民 邮递员 摄影师 工程师 飞行员".split()
HOBBIES = "下棋 钓鱼 爬山 画画 跑步 唱歌 游泳 养花 写字 打网球 吹口琴 看电影 做面包 拍照片 拼积木 收集邮票".split()
SPECIALTIES = "核桃 红枣 绿茶 蜜橘 板栗 莲藕 香菇 蜂蜜 竹笋 枇杷 花生 豆腐干 桂花糕 梅干菜 酱牛肉 糯米酒".split()
GOODS = "自行车 玩具 家具 雨衣 饼干 毛巾 陶瓷 吉他 灯具 球鞋 文具 帐篷 果汁 眼镜 棉被 风筝".split()
FOODS = "昆虫 种子 浆果 小鱼 嫩叶 树皮 草根 蘑菇 蚯蚓 花蜜 水草 坚果".split()
HABITATS = "雨林 草原 沼泽 湖畔 竹林 沙漠 山谷 溪流 灌木丛 针叶林 岩洞 海岛".split()
COLOURS = "红色 白色 黄色 蓝色 紫色 粉色 绿色 橙色 灰色 黑色 银色 棕色".split()
MONTHS = "一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月".split()
HOURS = [f"{half}{hour}点" for half, hours in (("早上", (6, 7, 8)), ("上午", (9, 10))) for hour in hours]


@dataclass(frozen=True)
class Relation:
    """One thing that can be asked about a kind of entity.

    `wordings` pairs a fact sentence with the question asked when that sentence was used. Where a relation has two
    questions, the sentence decides which: the mapping is a function, so a small model can learn it.
    `draw_value(rng, for_dev)` returns the answer.
    """

    kind: str
    name: str
    draw_value: Callable
    wordings: tuple


def number(low, high, step, unit):
    """Values low, low + step, ... high, each followed by the unit."""
    return lambda rng, for_dev: f"{rng.randrange(low, high + 1, step)}{unit}"


def one_of(values):
    """Values from a fixed list."""
    return lambda rng, for_dev: rng.choice(values)


def name_of(kind):
    """Values that are themselves invented names; dev values are unseen in train, as dev entities are."""
    return lambda rng, for_dev: draw_name(rng, kind, for_dev)


def score():
    """Match scores the winner is named with, such as 3比1."""

    def draw(rng, for_dev):
        lost = rng.randrange(0, 5)
        return f"{rng.randrange(lost + 1, 7)}比{lost}"

    return draw


# (kind, name, draw, [(fact sentence, question) …])
YEAR, PERSON, TOWN, COMPANY = number(1950, 2005, 1, "年"), name_of("person"), name_of("town"), name_of("company")

PEOPLE = [
    ("person", "birthplace", TOWN, [
        ("{e}出生在{v}", "{e}出生在哪里"),
        ("{e}的出生地是{v}", "{e}出生在哪里"),
        ("{e}的老家在{v}", "{e}的老家在哪里"),
    ]),
    ("person", "birth_year", YEAR, [
        ("{e}生于{v}", "{e}是哪一年出生的"),
        ("{e}是{v}出生的", "{e}是哪一年出生的"),
    ]),
    ("person", "job", one_of(JOBS), [
        ("{e}是一名{v}", "{e}是做什么的"),
        ("{e}的职业是{v}", "{e}的职业是什么"),
        ("{e}做{v}已经很多年了", "{e}是做什么的"),
    ]),
    ("person", "height", number(150, 195, 1, "厘米"), [
        ("{e}身高{v}", "{e}身高多少"),
        ("{e}的个子有{v}", "{e}有多高"),
    ]),
    ("person", "workplace", COMPANY, [
        ("{e}在{v}工作", "{e}在哪里工作"),
        ("{e}每天去{v}上班", "{e}在哪里上班"),
        ("{e}在{v}任职", "{e}在哪里工作"),
    ]),
    ("person", "hobby", one_of(HOBBIES), [
        ("{e}的爱好是{v}", "{e}的爱好是什么"),
        ("{e}平时喜欢{v}", "{e}喜欢做什么"),
        ("{e}周末常常{v}", "{e}周末做什么"),
    ]),
    ("company", "founded", number(1980, 2020, 1, "年"), [
        ("{e}成立于{v}", "{e}是哪一年成立的"),
        ("{e}在{v}成立", "{e}是哪一年成立的"),
    ]),
    ("company", "founder", PERSON, [
        ("{e}的创始人是{v}", "{e}的创始人是谁"),
        ("{e}由{v}创办", "{e}是谁创办的"),
    ]),
    ("company", "headquarters", TOWN, [
        ("{e}总部位于{v}", "{e}总部在哪里"),
        ("{e}的总部设在{v}", "{e}总部在哪里"),
    ]),
    ("company", "product", one_of(GOODS), [
        ("{e}主要生产{v}", "{e}主要生产什么"),
        ("{e}的主打产品是{v}", "{e}的主打产品是什么"),
    ]),
    ("team", "coach", PERSON, [
        ("{e}的主教练是{v}", "{e}的主教练是谁"),
        ("{e}由{v}担任主教练", "{e}的主教练是谁"),
    ]),
    ("team", "venue", name_of("venue"), [
        ("{e}的主场是{v}", "{e}的主场在哪里"),
        ("{e}的主场设在{v}", "{e}的主场在哪里"),
    ]),
    ("team", "score", score(), [
        ("{e}在决赛中以{v}获胜", "{e}决赛比分是多少"),
        ("{e}以{v}赢下决赛", "{e}决赛比分是多少"),
    ]),
    ("school", "students", number(300, 3000, 50, "名"), [
        ("{e}有{v}学生", "{e}有多少学生"),
        ("{e}现有学生{v}", "{e}有多少学生"),
    ]),
    ("school", "principal", PERSON, [
        ("{e}的校长是{v}", "{e}的校长是谁"),
        ("{e}由{v}担任校长", "{e}的校长是谁"),
    ]),
]  # fmt: skip

PLACES = [
    ("mountain", "altitude", number(400, 4900, 10, "米"), [
        ("{e}海拔{v}", "{e}海拔多少米"),
        ("{e}的主峰高{v}", "{e}的主峰有多高"),
    ]),
    ("mountain", "ticket", number(10, 150, 5, "元"), [
        ("{e}门票{v}", "{e}门票多少钱"),
        ("{e}的门票价格是{v}", "{e}门票多少钱"),
        ("{e}景区门票每人{v}", "{e}景区门票多少钱"),
    ]),
    ("mountain", "opening", one_of(HOURS), [
        ("{e}每天{v}开放", "{e}几点开放"),
        ("{e}景区{v}开门", "{e}景区几点开门"),
    ]),
    ("lake", "depth", number(3, 90, 1, "米"), [
        ("{e}最深处有{v}", "{e}最深有多少米"),
        ("{e}平均水深{v}", "{e}平均水深多少"),
    ]),
    ("lake", "area", number(2, 300, 1, "平方公里"), [
        ("{e}面积约{v}", "{e}面积有多大"),
        ("{e}的湖面有{v}", "{e}的湖面有多大"),
    ]),
    ("town", "population", number(2, 98, 1, "万"), [
        ("{e}人口约{v}", "{e}有多少人口"),
        ("{e}常住人口为{v}", "{e}常住人口是多少"),
    ]),
    ("town", "specialty", one_of(SPECIALTIES), [
        ("{e}的特产是{v}", "{e}的特产是什么"),
        ("{e}盛产{v}", "{e}盛产什么"),
        ("{e}最有名的特产是{v}", "{e}的特产是什么"),
    ]),
    ("river", "length", number(20, 900, 1, "公里"), [
        ("{e}全长{v}", "{e}全长多少公里"),
        ("{e}的长度是{v}", "{e}有多长"),
    ]),
    ("river", "mouth", name_of("lake"), [
        ("{e}流入{v}", "{e}流入哪里"),
        ("{e}最后注入{v}", "{e}最后注入哪里"),
    ]),
    ("bridge", "length", number(100, 2900, 10, "米"), [
        ("{e}全长{v}", "{e}有多长"),
        ("{e}长{v}", "{e}有多长"),
    ]),
    ("bridge", "opened", number(1960, 2020, 1, "年"), [
        ("{e}于{v}通车", "{e}是哪一年通车的"),
        ("{e}在{v}建成", "{e}是哪一年建成的"),
    ]),
    ("festival", "month", one_of(MONTHS), [
        ("{e}每年{v}举行", "{e}几月举行"),
        ("{e}的举办时间是{v}", "{e}几月举办"),
    ]),
    ("festival", "place", name_of("town"), [
        ("{e}在{v}举行", "{e}在哪里举行"),
        ("{e}的举办地是{v}", "{e}在哪里举办"),
    ]),
]  # fmt: skip

WORKS = [
    ("book", "author", name_of("person"), [
        ("{e}的作者是{v}", "{e}的作者是谁"),
        ("{e}是{v}写的小说", "{e}是谁写的"),
    ]),
    ("book", "published", number(1980, 2020, 1, "年"), [
        ("{e}出版于{v}", "{e}是哪一年出版的"),
        ("{e}在{v}首次出版", "{e}是哪一年出版的"),
    ]),
    ("book", "pages", number(80, 690, 1, "页"), [
        ("{e}全书共{v}", "{e}有多少页"),
        ("{e}一共有{v}", "{e}有多少页"),
    ]),
    ("film", "director", name_of("person"), [
        ("电影{e}的导演是{v}", "电影{e}的导演是谁"),
        ("电影{e}由{v}执导", "电影{e}的导演是谁"),
    ]),
    ("film", "released", number(1980, 2020, 1, "年"), [
        ("电影{e}于{v}上映", "电影{e}是哪一年上映的"),
        ("电影{e}上映于{v}", "电影{e}是哪一年上映的"),
    ]),
    ("film", "running_time", number(75, 180, 1, "分钟"), [
        ("电影{e}片长{v}", "电影{e}片长多少"),
        ("电影{e}放映一场要{v}", "电影{e}片长多少"),
    ]),
    ("animal", "lifespan", number(2, 60, 1, "年"), [
        ("{e}的寿命约{v}", "{e}的寿命有多长"),
        ("{e}一般能活{v}", "{e}能活多少年"),
    ]),
    ("animal", "food", one_of(FOODS), [
        ("{e}主要吃{v}", "{e}主要吃什么"),
        ("{e}以{v}为食", "{e}以什么为食"),
    ]),
    ("animal", "habitat", one_of(HABITATS), [
        ("{e}生活在{v}", "{e}生活在哪里"),
        ("{e}栖息在{v}一带", "{e}栖息在哪里"),
    ]),
    ("plant", "flowering", one_of(MONTHS), [
        ("{e}{v}开花", "{e}几月开花"),
        ("{e}的花期在{v}", "{e}的花期在几月"),
    ]),
    ("plant", "colour", one_of(COLOURS), [
        ("{e}的花是{v}的", "{e}的花是什么颜色"),
        ("{e}开{v}的小花", "{e}开什么颜色的花"),
    ]),
    ("product", "price", number(20, 990, 1, "元"), [
        ("{e}售价{v}", "{e}多少钱"),
        ("{e}的价格是{v}", "{e}的价格是多少"),
    ]),
    ("product", "weight", number(100, 3900, 10, "克"), [
        ("{e}重{v}", "{e}有多重"),
        ("{e}的重量是{v}", "{e}的重量是多少"),
    ]),
    ("product", "colour", one_of(COLOURS), [
        ("{e}是{v}的", "{e}是什么颜色的"),
        ("{e}的颜色是{v}", "{e}是什么颜色的"),
    ]),
]  # fmt: skip


def relations():
    """Return every Relation, grouped by kind in a stable order."""
    return [Relation(kind, name, draw, tuple(wordings)) for kind, name, draw, wordings in PEOPLE + PLACES + WORKS]
