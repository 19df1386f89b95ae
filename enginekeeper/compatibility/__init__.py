"""What cannot work, known before any work starts: rules as data, and estimates of cost.

`facts` gathers what a model, a GPU and a toolchain are; `check.check` applies every rule to one
variant; `estimates` says how many bytes and how long.
"""
