"""The pages that a browser shows: of one run, and of several side by side.

Guarantee: a page is a function of the runs' public files, asks for nothing outside itself and runs
no script; all text in it is escaped.
"""
