"""Where the words of a Chinese text end, by jieba."""

from functools import lru_cache

from glm.cache import own_cache_directory

# Where a text of a passage may begin and end: at the ends of words, or anywhere.
BOUNDARIES = ("words", "characters")


@lru_cache
def segmenter():
    """jieba's tokenizer, with its dictionary read."""
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    found = jieba.Tokenizer()
    # It keeps its dictionary as a file there, by default where everybody may write.
    found.tmp_dir = str(own_cache_directory())
    found.initialize()
    return found
