"""Arms x seeds at matched cost, trained side by side, and the report on them.

The way through: :mod:`arms` says what is compared, :mod:`plan` how much of it, :mod:`runner` trains it (and goes on
after a kill), :mod:`results` turns the finished runs into one table, :mod:`figures` and :mod:`report` show it.
"""
