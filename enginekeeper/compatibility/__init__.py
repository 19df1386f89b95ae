"""What cannot work, known before any work starts: rules as data, and estimates of cost.

`facts` gathers what a model, a GPU and a toolchain are; each rule says which of these it needs;
`check.check` applies to one variant every rule that the facts at hand suffice for; `estimates` says
how many bytes and how long.
"""
