"""`python -m engine report`: what a call asks for, checked first, then made, written and said."""

from collections.abc import Sequence
from pathlib import Path

from engine.analysis.wording import count, size
from engine.report import choice, pdf, writing
from engine.report.content import build
from engine.runs.run import Run


def write(
    run: Run,
    out: str,
    targets: Sequence[str] = (),
    images: int = choice.IMAGES,
    notes: bool = False,
    force: bool = False,
    pdf_file: str | None = None,
) -> None:
    """Says the size before it makes anything."""
    asked = choice.Choice(images, notes)
    place = writing.check_place(Path(out), force)
    printed = None if pdf_file is None else writing.check_place(Path(pdf_file), force)
    if printed is not None:
        pdf.browser()
    record = run.manifest()
    dataset = choice.dataset_of(record)
    refs = choice.targets_of(record, dataset, targets)
    foretold = choice.foretold_bytes(dataset, len(refs), images)
    print(f"{count(len(refs), 'targets')}, {images} images a side: about {size(foretold)}", flush=True)
    if foretold > choice.FOR_MAIL:
        print("Too large for most mail servers: fewer --targets or --images make it smaller.", flush=True)
    html = writing.html(build(run, record, dataset, refs, asked))
    content = html.encode()
    writing.write(place, content)
    print(f"{place}: {size(len(content))}")
    if printed is not None:
        made = pdf.of(html)
        writing.write(printed, made)
        print(f"{printed}: {size(len(made))}")
