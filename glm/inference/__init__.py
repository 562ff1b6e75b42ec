"""Prompts → texts in files, whatever decodes.

arguments        the flags of prompts and of decoding, which several scripts share
parts            which of the prompts a process answers, where several share them out
partial_answers  answers kept on disk while others are still to come
answer_lines     what was generated, and the lines that say it: the record with the prediction
prompts          what is to be answered, read and encoded in windows
binding          what texts are bound to: runs of each prompt's passage, or a file's texts
stops            texts at which an answer ends
continuous       prompts that join others while they are decoded, and leave when their own text ends
answers          batches, order, parts, output files
interactive      a conversation on the terminal
"""
