# The real actions of the datastore driver read their functions from here; the lab's have theirs beside this file.
