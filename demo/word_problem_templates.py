"""The stories of the word problem demo set.

In a story, {n} and {o} are two children, {i} an item and {m} its measure word, {a} {b} {c} the numbers; {r} in the
conclusion is the result. Steps are equations over a, b, c and p, the result of the step before.
"""

# ruff: noqa: SIM905 (a word list reads best on one line)
from dataclasses import dataclass

NAMES = "小明 小红 小刚 小丽 小华 小芳 小军 小兰 小强 小美 小东 小雪 小亮 小燕 小杰 小梅".split()
ITEMS = [
    ("个", "苹果"), ("个", "气球"), ("支", "铅笔"), ("本", "故事书"), ("颗", "糖"), ("张", "贴纸"), ("块", "积木"),
    ("个", "橘子"), ("颗", "弹珠"), ("张", "卡片"), ("块", "饼干"), ("枚", "邮票"), ("朵", "纸花"), ("个", "玩具"),
]  # fmt: skip
# What stands in "instruction" where the story itself is the input.
INSTRUCTIONS = ["解答下面的应用题。", "请解答这道数学题。", "算一算，写出算式和答案。", "请计算下面的题目。"]


@dataclass(frozen=True)
class Template:
    """A story with its question, the steps that solve it, and the sentence that states the result."""

    story: str
    steps: tuple
    conclusion: str


ONE_STEP = [
    # a+b
    Template("{n}有{a}{m}{i}，又买了{b}{m}，现在一共有多少{m}{i}？", ("a+b",), "{n}现在一共有{r}{m}{i}"),
    Template("{n}有{a}{m}{i}，{o}有{b}{m}{i}，两人一共有多少{m}{i}？", ("a+b",), "两人一共有{r}{m}{i}"),
    Template("{n}有{a}{m}{i}，{o}比{n}多{b}{m}，{o}有多少{m}{i}？", ("a+b",), "{o}有{r}{m}{i}"),
    Template("公交车上有{a}人，到站后又上来{b}人，现在车上有多少人？", ("a+b",), "现在车上有{r}人"),
    Template("{n}上午读了{a}页书，下午读了{b}页，一共读了多少页？", ("a+b",), "{n}一共读了{r}页"),
    Template("一根绳子剪去{a}米后还剩{b}米，原来长多少米？", ("a+b",), "绳子原来长{r}米"),
    Template("花坛里有{a}盆红花和{b}盆黄花，一共有多少盆花？", ("a+b",), "一共有{r}盆花"),
    Template("{n}做了{a}道题，还有{b}道没做，一共有多少道题？", ("a+b",), "一共有{r}道题"),
    # a-b
    Template("{n}有{a}{m}{i}，送给{o}{b}{m}，还剩多少{m}{i}？", ("a-b",), "{n}还剩{r}{m}{i}"),
    Template("{n}有{a}{m}{i}，{o}有{b}{m}{i}，{n}比{o}多多少{m}{i}？", ("a-b",), "{n}比{o}多{r}{m}{i}"),
    Template("停车场里有{a}辆车，开走了{b}辆，还剩多少辆车？", ("a-b",), "还剩{r}辆车"),
    Template("一本书有{a}页，{n}已经读了{b}页，还有多少页没读？", ("a-b",), "还有{r}页没读"),
    Template("班里有{a}名学生，其中男生有{b}名，女生有多少名？", ("a-b",), "女生有{r}名"),
    Template("{n}带了{a}元，买文具花了{b}元，还剩多少元？", ("a-b",), "{n}还剩{r}元"),
    Template("树上有{a}只鸟，飞走了{b}只，树上还有多少只鸟？", ("a-b",), "树上还有{r}只鸟"),
    Template("{n}想折{a}只纸鹤，已经折了{b}只，还要折多少只？", ("a-b",), "{n}还要折{r}只纸鹤"),
    # a×b
    Template("每盒有{a}{m}{i}，{n}买了{b}盒，一共有多少{m}{i}？", ("a×b",), "一共有{r}{m}{i}"),
    Template("一{m}{i}卖{a}元，{n}买了{b}{m}，一共要付多少元？", ("a×b",), "{n}一共要付{r}元"),
    Template("教室里有{a}排桌子，每排{b}张，一共有多少张桌子？", ("a×b",), "一共有{r}张桌子"),
    Template("{n}每天跑{a}圈，{b}天一共跑多少圈？", ("a×b",), "{n}一共跑{r}圈"),
    Template("一条船能坐{a}人，{b}条船一共能坐多少人？", ("a×b",), "一共能坐{r}人"),
    # a÷b
    Template("{n}把{a}{m}{i}平均分给{b}个小朋友，每人分到多少{m}？", ("a÷b",), "每人分到{r}{m}{i}"),
    Template("{a}名学生平均站成{b}排，每排有多少名学生？", ("a÷b",), "每排有{r}名学生"),
    Template("{n}有{a}{m}{i}，每{b}{m}装一袋，可以装多少袋？", ("a÷b",), "可以装{r}袋"),
    Template("{n}花{a}元买了{b}本练习本，每本多少元？", ("a÷b",), "每本{r}元"),
    Template("{n}做完{a}道题用了{b}天，平均每天做多少道？", ("a÷b",), "{n}平均每天做{r}道题"),
]

TWO_STEPS = [
    Template("{n}有{a}{m}{i}，又买了{b}{m}，后来送给{o}{c}{m}，还剩多少{m}{i}？", ("a+b", "p-c"), "{n}还剩{r}{m}{i}"),
    Template(
        "{n}上午做了{a}道题，下午做了{b}道，晚上做了{c}道，一共做了多少道？", ("a+b", "p+c"), "{n}一共做了{r}道题"
    ),
    Template(
        "{n}有{a}{m}{i}，{o}有{b}{m}{i}，把它们平均放进{c}个盒子，每盒放多少{m}？", ("a+b", "p÷c"), "每盒放{r}{m}{i}"
    ),
    Template("公交车上有{a}人，到站后下去{b}人，又上来{c}人，现在车上有多少人？", ("a-b", "p+c"), "现在车上有{r}人"),
    Template("图书角有{a}本书，上午借出{b}本，下午借出{c}本，还剩多少本？", ("a-b", "p-c"), "还剩{r}本书"),
    Template("一根彩带长{a}米，用去{b}米，剩下的平均剪成{c}段，每段长多少米？", ("a-b", "p÷c"), "每段长{r}米"),
    Template("每盒有{a}{m}{i}，{n}买了{b}盒，家里还有{c}{m}，一共有多少{m}{i}？", ("a×b", "p+c"), "一共有{r}{m}{i}"),
    Template("每袋有{a}{m}{i}，{n}拿来{b}袋，分掉了{c}{m}，还剩多少{m}{i}？", ("a×b", "p-c"), "还剩{r}{m}{i}"),
    Template("一{m}{i}卖{a}元，{n}买了{b}{m}，付了{c}元，应找回多少元？", ("a×b", "c-p"), "应找回{r}元"),
]
