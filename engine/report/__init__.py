"""A run, or some of its targets, told in one file of HTML that needs nothing else, and is mailed, kept and printed.

    choice      which targets, of which data set: what a call asks for, checked
    content     what is told, as one value: `Report`
    asked       a target: pictures, what the model says, the images that helped and harmed it most
    relied      how far to rely on it: the verdict, and what retraining gave
    origin      settings, versions, checksums, commands: what makes it again
    pictures    images as data URIs; drawings: charts as SVG
    writing     the template, the file, its size before; pdf: the same, printed by a browser
    command     `python -m engine report`

The file has no script and asks nothing of any server: its own policy (CSP) forbids both. Each text of others goes
through the template's escaping, and through `engine.visible`. The same run gives the same bytes: no time of making is
in it. No torch.
"""
