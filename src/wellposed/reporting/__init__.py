"""The page that a study leaves: its verdict first, then everything that the verdict rests on.

``html`` turns a record into one self-contained file, ``words`` says it in sentences, ``figures`` draws it, and
``reading`` takes what a foreign or older record has and leaves out the rest.
"""
