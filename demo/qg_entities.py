"""Invented names for the question generation demo set, combined from parts.

A name is drawn for a split: the part of it that identifies the entity (its base) belongs either to train or to dev,
by a checksum, so a dev entity never occurs in train while all of its parts do.
"""

# ruff: noqa: SIM905 (a word list reads best on one line)
import zlib

SURNAMES = "林陈苏沈叶许何吕施孔曹严华魏姜谢邹柏窦章云潘葛奚范彭韦马苗方俞任袁柳鲍史唐费岑薛"
GIVEN_FIRST = "小晓文思雨书若子一亦知景安嘉远可清承佳语明念梓沐芷怀永心静忆"
GIVEN_SECOND = "晴川舟宁岩然言禾瑶涵桐楠薇航屹萱琪哲菲恬澄朗悦彤妍昕珂茜越溪"
PLACE_FIRST = "青云翠碧紫银松竹兰月星霞雪霜长落凌望归听枕浅柳荻雾禅石枣鹿砂"
PLACE_SECOND = "岚桐枫荷渡澜螺砚笛萤雁棠蓼萝汀屿芦苓樨坞蝉篱埠苔篁岬蕉榆桠涧"
BRAND_FIRST = "蔚启拓恒沐旭睿柠朴澳芒橙珀梧麦乔弦昱诺晨"
BRAND_SECOND = "禾翎峦槐棉莓笺砾鲸犀隼桦柚椿铎蓟蝉荔舸穗"
TITLE_FIRST = (
    "雨夜 南风 旧巷 午后 远山 冬日 渡口 海边 山城 麦田 春雷 夏末 深秋 江畔 雪原 黄昏 清晨 沙洲 古井 石桥".split()
)
TITLE_SECOND = (
    "灯塔 信使 来客 钟声 邮差 琴师 书店 笔记 旅人 渔火 钥匙 列车 密码 木匠 纸船 铜镜 药铺 画像 长笛 棋手".split()
)
SPECIES_FIRST = "雾霜砂墨绒烟炭蜡苔铜瓷琥翡绯"
SPECIES_MIDDLE_ANIMAL = "尾斑纹耳爪背鼻腹"
SPECIES_LAST_ANIMAL = "雀蛙狐鹿龟鼠貂兔獾獭"
SPECIES_MIDDLE_PLANT = "铃丝珠蕊瓣脉穗棘"
SPECIES_LAST_PLANT = "花草藤葵菊蕨莲苇"

PLACE_SUFFIXES = {
    "mountain": ["山", "峰", "岭"],
    "lake": ["湖"],
    "town": ["市", "县", "镇"],
    "school": ["小学", "中学", "大学"],
    "river": ["河", "江"],
    "bridge": ["大桥"],
    "festival": ["灯会", "庙会", "花会"],
    "team": ["队"],
    "venue": ["体育馆", "体育场"],
}
BRAND_SUFFIXES = {
    "company": ["公司", "集团", "工坊"],
    "product": ["台灯", "背包", "耳机", "雨伞", "水壶", "键盘", "书桌", "手表"],
}
# Combinations of these parts that exist in the real world, or read badly.
REFUSED = frozenset(
    "青荷 云汀 长汀 长屿 兰屿 青屿 碧螺 翠螺 落雁 兰渡 石榆 月桐 石砚 长萝 "
    "许晴 许昕 何晴 柳岩 陈瑶 姜妍 谢楠 叶一茜 唐一菲 章若楠 马晓晴 许佳琪".split()
)
# One base in this many is kept for dev.
DEV_SHARE = 10


def is_dev_base(base):
    """True where the entity with this base is kept for dev; stable across runs and machines."""
    return zlib.crc32(base.encode("utf-8")) % DEV_SHARE == 0


def draw_name(rng, kind, for_dev):
    """Return one invented name of the kind ("person", "town", ...), of the dev or of the train share.

    Raises KeyError for a kind that has no parts.
    """
    while True:
        base = _draw_base(rng, kind)
        if is_dev_base(base) == for_dev and base not in REFUSED:
            return _finish_name(rng, kind, base)


def _draw_base(rng, kind):
    if kind == "person":
        # Single given names use second characters only: such a name is then never the beginning of a longer one.
        first = "" if rng.random() < 0.15 else rng.choice(GIVEN_FIRST)
        return rng.choice(SURNAMES) + first + rng.choice(GIVEN_SECOND)
    if kind in ("book", "film"):
        return rng.choice(TITLE_FIRST) + rng.choice(TITLE_SECOND)
    if kind == "animal":
        return rng.choice(SPECIES_FIRST) + rng.choice(SPECIES_MIDDLE_ANIMAL) + rng.choice(SPECIES_LAST_ANIMAL)
    if kind == "plant":
        return rng.choice(SPECIES_FIRST) + rng.choice(SPECIES_MIDDLE_PLANT) + rng.choice(SPECIES_LAST_PLANT)
    if kind in BRAND_SUFFIXES:
        return rng.choice(BRAND_FIRST) + rng.choice(BRAND_SECOND)
    return rng.choice(PLACE_FIRST) + rng.choice(PLACE_SECOND)


def _finish_name(rng, kind, base):
    if kind in ("person", "animal", "plant"):
        return base
    if kind in ("book", "film"):
        return f"《{base}》"
    suffixes = BRAND_SUFFIXES[kind] if kind in BRAND_SUFFIXES else PLACE_SUFFIXES[kind]
    return base + rng.choice(suffixes)
