"""Documents → verified question–answer pairs. Nothing here imports paddle: what decodes is handed over.

documents   files and directories → documents, one at a time
splitting   a document → passages at sentence ends, measured in tokens
candidates  what is known of a pair on its way: an answer, its question, what the model answers
proposing   passages → candidates: answers that are in them
asking      candidates → questions
answering   questions → answers of the model's own
judging     which pairs hold
arguments   the flags of generate_pairs.py
duplicates  questions that were asked before
choosing    the pairs of a passage that differ most
progress    what is done, kept on disk while the rest is to come
pipeline    all of it, a window of passages at a time
formats     pairs as SQuAD, Alpaca, messages, CSV
scores      how good pairs are, without references and with them
scoring     the same from files, by the model that made the pairs or by another judge
agreement   decisions of two reviewers
review      a reviewer's decisions, written as they are made
"""
