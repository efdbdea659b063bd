"""The quickstart: a grid, two sites and one model's life on this machine, from raw text to a poem and a bill.

Everything it does goes through the same doors that a person has: `suan up`, `suan join`, REST. Modules:
`command` (the order of things), `world` (what is declared), `machines` (the three processes), `story`
(following the jobs), `screen` (what is shown while they run), `poem` (the OpenAI client), `report` (what is
shown and written at the end).
"""
