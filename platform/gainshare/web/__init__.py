"""Page shell of the site: layout, styles, and the pages of account, keys and credits."""
