"""How everything that is shown looks: one style for figures, one page that fetches nothing."""
