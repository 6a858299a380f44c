"""Lists of image-text pairs: as publishers and users write them, and as samples."""
