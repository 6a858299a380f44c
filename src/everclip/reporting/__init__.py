"""What people read: console, figures, tables, pages. Needs run folders, no model."""
