"""Documents of all kinds: which are read, what is passed over, and that nothing of a text is lost in passages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.errors import UserError
from glm.pairs.documents import Document, Seen, documents
from glm.pairs.splitting import passages_of, sentence_spans


def read(path, seen=None, field="passage"):
    return list(documents(path, field, seen or Seen()))


def test_a_directory_is_read_in_the_order_of_names_and_what_cannot_be_read_is_counted(tmp_path):
    (tmp_path / "b").mkdir()
    files = {
        "a.txt": "甲在乙。".encode(),
        "b/c.md": "# 题\n\n甲在乙。".encode(),
        "b/d.jsonl": '{"passage": "一"}\n\n{"passage": 3}\n{"passage": "二"}\n'.encode(),
        "e.txt": b"",
        "f.txt": "甲".encode("gbk") * 3,
        "g.txt": b"a\0b",
        "h.txt": "甲".encode("utf-16"),
        "i.png": b"\x89PNG",
        "j.jsonl": b"{}\n",
        ".hidden.txt": "不读".encode(),
        "k.txt": "\ufeff有标记。\r\n".encode(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    seen = Seen()
    found = read(tmp_path, seen)
    assert [(one.name, one.text, one.markdown) for one in found] == [
        ("a.txt", "甲在乙。", False),
        ("b/c.md", "# 题\n\n甲在乙。", True),
        ("b/d.jsonl:1", "一", False),
        ("b/d.jsonl:4", "二", False),
        ("k.txt", "有标记。\r\n", False),
    ]
    assert seen.read == 5
    assert dict(seen.skipped) == {
        "wrong type": 1,
        "empty": 1,
        "bad UTF-8": 1,
        "binary": 2,
        "kind": 1,
        "bad data": 1,
    }
    assert len(seen.told()) == 6
    assert any(f"{tmp_path / 'f.txt'}: byte 1 is not UTF-8; save the file as UTF-8" in line for line in seen.told())


@pytest.mark.parametrize(
    ("name", "told"),
    [("missing.txt", "no such file or directory; check the path"), ("a.pdf", "cannot tell what this file is")],
)
def test_a_file_that_is_not_there_or_of_another_kind_is_refused(name, told, tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=told):
        read(tmp_path / name)


# Tokens as if every 2 characters were one.
def tokens(text):
    return (len(text) + 1) // 2


written = st.text("甲乙丙，。！？”；\n #`-1a", max_size=200)


@settings(max_examples=300)
@given(written, st.integers(16, 40), st.integers(0, 12), st.booleans())
def test_passages_are_parts_of_their_document_no_longer_than_asked_for(text, length, overlap, markdown):
    found = list(passages_of(Document("d", text, markdown), tokens, length, overlap))
    for passage in found:
        assert passage.text == text[passage.start : passage.end]
        assert 0 < tokens(passage.text) <= length
        assert passage.text == passage.text.strip()
    for before, after in zip(found, found[1:], strict=False):
        assert before.start < after.start
        assert before.end < after.end
        assert tokens(text[after.start : before.end]) <= overlap


@settings(max_examples=300)
@given(written, st.integers(16, 40), st.integers(0, 12))
def test_of_a_plain_text_nothing_but_white_space_is_in_no_passage(text, length, overlap):
    covered = set()
    for passage in passages_of(Document("d", text), tokens, length, overlap):
        covered.update(range(passage.start, passage.end))
    assert not "".join(text[i] for i in range(len(text)) if i not in covered).strip()


def test_passages_end_where_sentences_do_and_repeat_whole_ones():
    text = "一二三四五六。七八九十甲乙！丙丁戊己庚辛？“壬癸子丑寅卯。”辰巳午未申酉。"
    found = [one.text for one in passages_of(Document("d", text), len, 16, 8)]
    assert found == [
        "一二三四五六。七八九十甲乙！",
        "七八九十甲乙！丙丁戊己庚辛？",
        "丙丁戊己庚辛？“壬癸子丑寅卯。”",
        "辰巳午未申酉。",
    ]
    assert [text[start:end] for start, end in sentence_spans(text)][3] == "“壬癸子丑寅卯。”"


def test_a_sentence_longer_than_a_passage_is_divided_at_pauses_and_that_is_known():
    text = "甲" * 20 + "，" + "乙" * 20 + "，" + "丙" * 5 + "。"
    found = list(passages_of(Document("d", text), len, 24))
    assert [(one.text, one.divided) for one in found] == [
        ("甲" * 20 + "，", True),
        ("乙" * 20 + "，", True),
        ("丙" * 5 + "。", False),
    ]
    endless = list(passages_of(Document("d", "甲" * 5000), len, 100))
    assert len(endless) == 50
    assert "".join(one.text for one in endless) == "甲" * 5000


def test_of_markdown_code_comments_and_rules_are_no_text_and_headings_begin_anew():
    text = "# 题目\n\n第一句。\n\n```python\nx = '代码。'\n```\n\n第二句。<!-- 注释。 -->\n\n---\n\n"
    text += "- 第三句。\n\n## 节\n\n> 引文。\n"
    found = [one.text for one in passages_of(Document("d", text, True), len, 200)]
    assert found == ["题目\n\n第一句。", "第二句。", "第三句。", "节\n\n> 引文。"]
