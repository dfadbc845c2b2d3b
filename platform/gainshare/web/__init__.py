"""The shell of the site: layout, styles, and the pages of a person's own account, keys and credits."""
