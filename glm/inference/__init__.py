"""Prompts → texts in files, whatever decodes.

arguments        the flags of prompts and of decoding, which several scripts share
partial_answers  answers kept on disk while others are still to come
answer_lines     what was generated, and the lines that say it: the record with the prediction
answers          batches, order, output files
interactive      a conversation on the terminal
"""
