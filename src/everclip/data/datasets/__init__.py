"""One reader per data set: what lies where, in which layout."""
