"""The pages, in the order in which the sidebar leads to them."""

from dataclasses import dataclass

TRAINING = "a training"

LOGITS = {"train": "logits of the training images", "test": "logits of the test images"}


@dataclass(frozen=True)
class PageLink:
    """A page as the sidebar leads to it."""

    path: str
    label: str
    icon: str
    shows: str = ""  # what a page of a run says while there is none
    carries: tuple[str, ...] = ("run",)  # what its address takes of what a person has in hand
    guests: bool = True  # whether it has anything for those who cannot start or change anything
    needs: str = ""  # of a run, which one of imported scores may not have: `TRAINING`, or one of `LOGITS`


# By caption. A page that shows no run takes none along, and a target is for the page that opens on one.
NAVIGATION: dict[str, tuple[PageLink, ...]] = {
    "": (PageLink("app.py", "Overview", ":material/home:", carries=()),),
    "Run": (
        PageLink("pages/Data.py", "Data", ":material/folder_open:", carries=()),
        PageLink("pages/Set_up_a_run.py", "Set up a run", ":material/tune:", carries=(), guests=False),
        PageLink(
            "pages/Live.py",
            "Live",
            ":material/monitoring:",
            "It shows a run while it works: how far it is, its curves, what it needs, and its log.",
            needs=TRAINING,
        ),
        PageLink(
            "pages/Runs_and_storage.py",
            "Runs and storage",
            ":material/database:",
            "It lists all runs and what each takes on the disk, to name them, and to delete what is no longer needed.",
            (),
        ),
    ),
    "Explore": (
        PageLink(
            "pages/Influence.py",
            "Influence",
            ":material/image_search:",
            "It shows the training images that helped and harmed a target most, and what would be without them.",
            ("run", "target"),
        ),
        PageLink(
            "pages/Themes.py",
            "Themes",
            ":material/category:",
            "It shows what the training images that helped and harmed a target most have in common, group by group.",
            ("run", "target"),
        ),
        PageLink(
            "pages/Training_images.py",
            "Training images",
            ":material/photo_library:",
            "It shows the training images by class, and which targets each of them moved.",
        ),
        PageLink(
            "pages/Test_images.py",
            "Test images",
            ":material/grid_view:",
            "It shows the test images by what the model makes of them, mistakes first, to choose what is explained.",
            needs=LOGITS["test"],
        ),
        PageLink(
            "pages/Map.py",
            "Map",
            ":material/scatter_plot:",
            "It draws the training images on a plane, beside those that look or act alike, to choose many at once.",
            ("run", "target"),
        ),
        PageLink(
            "pages/Self_influence.py",
            "Self-influence",
            ":material/fingerprint:",
            "It shows the training images that the model knows by heart, the most memorised first.",
            needs=TRAINING,
        ),
    ),
    "Act": (
        PageLink(
            "pages/Find_bad_labels.py",
            "Find bad labels",
            ":material/label_off:",
            "It lists the training images whose label is most likely wrong, to look at, correct, and train again.",
            ("run", "set"),
            needs=LOGITS["train"],
        ),
        PageLink(
            "pages/Duplicates.py",
            "Duplicates",
            ":material/content_copy:",
            "It finds images that are the same, or nearly, in training and between training and test.",
            ("run", "target"),
        ),
        PageLink(
            "pages/Triage.py",
            "Triage",
            ":material/rule:",
            "It goes through the suspects of a run one by one, with the keyboard, to correct labels and train again.",
        ),
    ),
    "Check": (
        PageLink(
            "pages/Trust.py",
            "Trust",
            ":material/verified:",
            "It tells how far the scores can be relied on: what they predict, beside what retraining gives.",
            ("run", "set"),
            needs=TRAINING,
        ),
        PageLink(
            "pages/Compare_runs.py",
            "Compare runs",
            ":material/compare_arrows:",
            "It shows how far the scores of several runs agree, and which images moved.",
        ),
    ),
    "Help": (PageLink("pages/Glossary.py", "Glossary", ":material/dictionary:", carries=()),),
}
LINKS = tuple(link for links in NAVIGATION.values() for link in links)
PAGES = tuple((link.path, link.label, link.icon) for link in LINKS)
