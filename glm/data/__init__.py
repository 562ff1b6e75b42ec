"""Records → token ids → batches. Nothing here imports paddle: C++ inference runs without it.

validation     what a record must be; DataError
columns        --columns: fields that have another name in a file
normalization  --normalize: traditional characters as simplified ones
own_prompts    --prompt: a template of one's own
preparation    prompt.json: what a model remembers of the two
text_lines     a file's lines as what may be records
kinds          what a data file is
tables         rows of CSV, TSV, Parquet and Excel files
nested_sets    questions of SQuAD's layout
records        files of all kinds → validated records with file and line
talks          turns of conversations ↔ a text
templates      records → prompts
selections     which examples of a file, by which template
truncation     shortens a prompt's context to a number of tokens
piece_models   a vocabulary's pieces, of which texts spell none that is special
tokenization   text ↔ ids by sentencepiece alone
allowed_texts  what a bound search may write: runs of a passage, or texts of a list
examples       examples → token ids → numpy batches
lost_text      what of a prompt a model does not get to read
encoded_files  a file's token ids, computed in parallel, kept on disk under a hash and read from there
"""
