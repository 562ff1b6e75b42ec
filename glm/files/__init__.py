"""Files that appear whole or not at all, and readers that run nothing.

manifest      size and SHA-256 of a directory's files: written last, verified before anything is loaded
locks         one process at a time in one place
atomic        directories and files that appear whole or not at all
cached        directories that are verified when they are used, and made anew if damaged
guarded       what fails of a by-product is a warning, of a result one line
identities    what directories are known by, hashed once
places        where results are to go, tried before there is any work
native_paths  names of files for libraries that take UTF-8 alone
archives      downloaded archives that stay in their directory
descriptions  small JSON files, within bounds and held against a schema
lines         lines of a file, none longer than a limit
json_array    the items of a JSON array in a file, one at a time, with their text
json_object   members added to the text of a JSON object, all others as they are spelled
"""
