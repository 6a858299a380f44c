"""Tables of published and obtained figures: the command `everclip-table` and `REPRODUCTION.md`."""
