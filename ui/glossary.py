"""Every term that the pages use, in plain words: the texts of the page *Glossary*, and of the help beside a figure.

One row a term. `help` is what a newcomer needs where the word stands, in one or two sentences; `more` is what the page
adds, for whoever wants to know it exactly. The texts are Markdown, and the project's own: nothing of users is in them.
"""

import re
from dataclasses import dataclass

from ui import link

PAGE = "Glossary"


@dataclass(frozen=True)
class Term:
    name: str
    help: str
    more: str = ""
    also: tuple[str, ...] = ()  # other words that the pages use for it

    @property
    def anchor(self) -> str:
        """Where the page has it: `Glossary#adjoint`, and before all others: `Glossary?term=adjoint`."""
        return "-".join(re.findall("[a-z0-9]+", self.name.lower().replace("²", "2")))


GROUPS: dict[str, tuple[Term, ...]] = {
    "What is asked": (
        Term(
            "Target",
            "What is to be explained: one test image, a class, a kind of mistake, all test images together, a "
            "training image, or an image of your own.",
            "Of several images it is their mean. Targets are written as `test:17`, `class:coat`, "
            "`confusion:coat>shirt` (test images of coats that the model takes for shirts), `test:all`, `train:17`.",
        ),
        Term(
            "Target function",
            "The one number that is measured of the target at the end of training: its loss, its margin, or logits.",
            "A score says how a training image moved that number. Loss and margin ask «how right is the model here?», "
            "a difference of logits asks «why this class and not that one?».",
            ("function",),
        ),
        Term(
            "Attribution window",
            "The part of the training, up to its end, in which the images' weights count. Scores say what an image did "
            "there; the training before it is fixed.",
            "«Effect of the last 50 % of training»: replays go back to the middle, and retrainings begin there, with "
            "the run's own state. It says less than the whole training would: what an image did before is not in it. "
            "docs/window.md has how far the two agree.",
            ("window",),
        ),
        Term(
            "Loss",
            "How wrong the model is on an image: 0 when it gives the right label all its confidence, more the less it "
            "gives. An image that helps lowers it.",
            "The cross-entropy: minus the natural logarithm of the probability of the label, in nats. A probability of "
            "50 % is a loss of 0.69, one of 1 % a loss of 4.6. It is also what the training makes small.",
        ),
        Term(
            "Margin",
            "How far the right label is ahead of all others *together*: above 0 the model gives it more than half of "
            "its confidence. A right answer can have a negative margin, when the others together have more.",
            "The logit of the label minus the log-sum-exp of the logits of all other classes. It is not the distance "
            "to the second class: with 40 % for *Dress*, 35 % for *Coat* and 25 % for *Shirt*, *Dress* is the "
            "answer and its margin is log(0.40 / 0.60) = −0.41. A margin m is a probability of 1 / (1 + e⁻ᵐ). An image "
            "that helps raises it.",
        ),
        Term(
            "Logit",
            "What the model says for one class before the classes are compared: the higher, the more it speaks for it.",
            "The raw output of the last layer. Adding the same to all logits changes no probability, so that one logit "
            "alone may move without any decision moving with it. Margins and differences do not have this flaw.",
            ("logits",),
        ),
        Term(
            "Difference",
            "One class's logit minus another's: above 0 where the model prefers the first. It asks «why this and not "
            "that?». Images *raise* or *lower* it.",
            "Written as `difference:shirt>coat`.",
            ("raises", "lowers"),
        ),
        Term(
            "Probability",
            "How much of its confidence the model gives to a class; those of all classes add up to 100 %.",
            "It is the softmax of the logits. A confidence of 90 % need not be right nine times in ten: a model may be "
            "surer than it should be.",
            ("confidence",),
        ),
        Term(
            "Test image",
            "An image that the model is asked about and that it was not trained on; `test:17` is number 17, counted "
            "from 0.",
        ),
        Term("Training image", "An image that the model learned from; `train:17` is number 17, counted from 0."),
    ),
    "What the numbers say": (
        Term(
            "Influence score",
            "What training on one image did to the target: without the image the target's loss (or margin, …) would "
            "change by about minus the score.",
            "Exactly: the derivative of the target function at the end of the training with respect to the weight of "
            "that training image, which is 1 when it takes part and 0 when it is left out. A score is exact for small "
            "changes of the weight; how well it foretells leaving the image out is what *Trust* measures.",
            ("score", "influence", "scores"),
        ),
        Term(
            "Helps and harms",
            "An image *helps* when the target would be worse without it, and *harms* when it would be better. The "
            "number says by how much, in the unit beside the list.",
            "For a loss a negative score helps, for a margin a positive one. The app says the word, so that nobody "
            "needs to remember the sign; exports have the score with its sign.",
            ("helpful", "harmful", "helps", "harms", "effect"),
        ),
        Term(
            "Imported scores",
            "Scores that another program made, such as TRAK, shown beside their images. They do not foretell here what "
            "leaving an image out would do.",
            "No training and no model is behind such a run: pages that need one say so. The scores count in the "
            "method's own units, and what a positive one means is what was said when they were shown (docs/viewer.md).",
        ),
        Term(
            "Nat",
            "The unit of a loss. A change of 0.01 nats changes the label's probability by about 1 % of itself.",
            "Natural logarithm: a loss of 1 nat is a probability of 1/e, that is 37 %; of 0.693 nats, 50 %. Lists are "
            "in thousandths or millionths of a nat where their numbers are small.",
            ("nats", "unit"),
        ),
        Term(
            "Place",
            "Where an image stands when all training images are ordered by how much they helped, or harmed, this "
            "target: place 1 did most.",
            also=("rank", "place among those that helped", "place on its side"),
        ),
        Term(
            "Gradient norm",
            "How strongly an image answers to the model's parameters at the end of training. Near 0 there is little to "
            "explain: whatever is left out, its loss hardly moves.",
            "The norm of the derivative of the image's own loss (or of the target function asked about) by all trained "
            "parameters. It is known before any replay, and ranks how much there is to explain; which training images "
            "explain it only a replay says.",
            ("gradient", "gradient norms"),
        ),
        Term(
            "Self-influence",
            "What a training image did to the model's answer on itself. A large one says that the model knows this "
            "image by heart: a rare image, or a wrong label.",
            "The score of `train:17` on the target `train:17`.",
        ),
        Term(
            "Features",
            "What the trained model sees of an image just before it answers: a row of numbers. Images whose features "
            "are near each other look alike to the model.",
            "The input of the last layer, the one that makes the logits, with the final weights, in evaluation mode "
            "and without augmentation; also called penultimate features, or an embedding.",
            ("penultimate features", "embedding"),
        ),
        Term(
            "Duplicates",
            "Images that are the same, or nearly: a file copied, scaled, encoded anew, a photograph taken twice. What "
            "is there three times counts three times in training.",
            "They are put into groups, each with a first image that is kept; every other is within the distance asked "
            "for of that one. docs/duplicates.md says by what images are compared.",
            ("duplicate", "near duplicates"),
        ),
        Term(
            "Twin in training",
            "A training image that is the same as a test image, or nearly. That the model gets that test image right "
            "says that it remembers, and not that it has learned.",
            "Also called leakage. The accuracy on such test images is too good, and so is that on all of them.",
            ("twin", "leak"),
        ),
        Term(
            "Perceptual hash",
            "64 bits made of an image's coarse structure, which stay what they are where it is scaled, encoded anew or "
            "a little changed. Two hashes differ by the number of bits in which they do.",
            "pHash (Zauner 2010): the 64 lowest frequencies of the image in grey, each above or below their median. "
            "Images that have nothing to do with each other differ in 32 bits, on average.",
            ("phash", "hash"),
        ),
        Term(
            "Theme",
            "A group of the images that helped, or harmed, a target most, which look alike to the model and did alike.",
            "Its effect is the sum of its images' scores: leaving it out changes the target by about minus that, which "
            "a retraining checks. docs/themes.md says how images are grouped, and how far the sums hold.",
            ("themes",),
        ),
        Term(
            "Class on class",
            "For each class of training images, what all of them together did to each group of targets.",
            "A cell is the sum of the scores of that class's images, averaged over the row's targets. Leaving out a "
            "whole class is no small change, so that a sum tells a direction and foretells no amount.",
        ),
    ),
    "How far to rely on this": (
        Term(
            "LDS",
            "How far to rely on the scores: 1 where they order perfectly what happens when images are left out, 0 "
            "where they say nothing.",
            "Linear datamodeling score. Random subsets of the training images are left out, the model is trained again "
            "without each, and what happens to a target is compared with the sum of the scores left out: Spearman's "
            "rank correlation of the two. From 0.9 on the scores are to be trusted, below 0.6 they are not.",
            ("agreement with retraining", "rank correlation with retraining"),
        ),
        Term(
            "Metasmoothness",
            "Whether the training answers a small change of its data with a small change of the model. Near 1: scores "
            "foretell what happens; below 0.5 they do not.",
            "The training is run with the weights of the images moved along a line; metasmoothness compares the first "
            "half of the way with the second (arXiv 2503.13751, definition 2). It costs four trainings, and says "
            "before any scores are made whether they can be good.",
            ("smoothness",),
        ),
        Term(
            "Growth of the adjoint",
            "How much a tiny change at the start of training grows until its end. Up to 2: calm; above 8 the training "
            "is chaotic, and no score foretells what happens.",
            "The norm of the adjoint at the first step over its norm at the last, the largest of the targets.",
            ("adjoint's growth", "growth"),
        ),
        Term(
            "Curvature times rate",
            "How hard a training step pushes against the steepest bend of its loss: beyond the optimizer's limit it "
            "throws apart what it meets.",
            "The largest eigenvalue of the second derivative of a step's loss, times the learning rate. Above 2 plain "
            "gradient descent grows on a quadratic; with momentum the limit is another (arXiv 2103.00065).",
            ("curvature",),
        ),
        Term(
            "Validation",
            "The check of the scores: training again without random subsets of the images, and comparing what happens "
            "with what the scores foretold.",
            "Each subset is one training. A verdict needs 20 subsets.",
            ("subset", "subsets", "fraction"),
        ),
        Term(
            "Standard error",
            "How far off a predicted change may be, behind its ±: what happens is within twice that in about 95 of 100 "
            "cases.",
            "It comes from the run's own validation: from how far its predictions were off, and from their slope. It "
            "grows with the number of images left out and with their scores, and again where a set is foretold to do "
            "more than any that was tried: images that are alike do each other's work. It is not known before a "
            "validation with 20 subsets.",
            ("standard errors", "error of a prediction"),
        ),
        Term(
            "Removal curve",
            "What happens to a target without the images that helped it most, or harmed it most, few and many, beside "
            "random ones of the same number.",
            "Each point is one training. Where the chosen images do no more than random ones, the scores say nothing "
            "of this target; where the predictions leave the retrained line, the set is too large for a derivative.",
            ("removal curves", "targeted removal"),
        ),
        Term(
            "Slope",
            "How large the true changes are beside the predicted ones: 1 where the sizes are right, 1.3 where leaving "
            "images out does 30 % more than foretold.",
        ),
        Term(
            "R²",
            "The share of what happens that the predictions explain, their size included: 1 is all of it. It is "
            "below 0 where they are worse than no prediction.",
        ),
        Term(
            "Noise",
            "What part of the differences between retrainings has nothing to do with the images left out.",
            "Retrainings of the same images are compared: what differs between them no score can foretell.",
        ),
        Term(
            "95 % interval",
            "Where the figure would lie in 95 of 100 repetitions with other subsets: narrow when much was measured.",
            "A bootstrap over the subsets and the targets.",
            ("interval",),
        ),
        Term(
            "Rank correlation",
            "Whether two lists of numbers have the same order: 1 the same, 0 unrelated, −1 reversed.",
            "Spearman's: the correlation of the places that the images have in the two lists.",
        ),
        Term(
            "Top-50 overlap",
            "How many of the 50 training images that did most are the same in two runs.",
            "A run explains *its own* training. Another seed is another training, in which other images of the same "
            "kind can do the work; a small overlap between seeds is no error of the scores.",
            ("top 50", "overlap"),
        ),
        Term(
            "Mean over seeds",
            "What an image does to the target in any training of the recipe: its scores in several trainings, "
            "averaged.",
            "The trainings differ in their seed alone. ± is the standard error of the mean: of S trainings, the spread "
            "divided by √S. LDS for other seeds says how well the mean foretells a training that is not in it.",
            ("seed group", "spread"),
        ),
    ),
    "How it is computed": (
        Term(
            "Replay",
            "Going through the finished training once more, backwards and step by step, to see what each image did to "
            "the targets. It takes about as long as a few trainings.",
            "It is reverse-mode differentiation of the whole training: exact, not estimated. Many targets are carried "
            "through one replay side by side.",
        ),
        Term(
            "Adjoint",
            "What replay carries backwards: how a tiny change of each number inside the model, at that step, would "
            "move the target at the end.",
            "dφ/d(state), for a target function φ and everything that affects the future of the training: parameters, "
            "the optimizer's memory, buffers. One for each target.",
        ),
        Term(
            "Trajectory",
            "All states that the model went through while it learned. Replay needs them in reverse order.",
        ),
        Term(
            "Replay mode",
            "Where replay gets the states of the training from: kept in *memory*, kept on *disk*, or *recomputed* from "
            "a few of them. The scores are the same to the last bit.",
            "Memory is quickest and needs most of it; disk keeps every state in files; recompute keeps every c-th full "
            "state and trains the steps between again, with little disk and about one more training's time.",
            ("mode", "memory mode", "disk mode", "recompute mode"),
        ),
        Term(
            "Checkpoint",
            "A full state of the training that is stored, so that the steps after it can be run again.",
            "In recompute mode every c-th full state is kept, with c near the square root of the number of steps "
            "unless you say otherwise: of 144 steps every 12th. Deleting them frees the disk and keeps the scores; "
            "further targets then need one more training.",
            ("checkpoints", "every c-th full state", "segment"),
        ),
        Term("Rebuild", "To train once more, the same to the last bit, so that deleted checkpoints are there again."),
        Term(
            "Step",
            "One batch of training images going once through the optimizer, which changes the model a little.",
            "An epoch is as many steps as it takes to see all images once.",
            ("steps", "batch", "epoch"),
        ),
        Term(
            "Run",
            "One training with its scores, kept in a folder of its own.",
            "A run with the same settings gives the same model and the same scores.",
        ),
        Term(
            "Recipe",
            "How the model is trained: epochs, batch size, learning rate, optimizer, seed.",
            "A *preset* is a recipe with a data set and a model whose results were measured. The *seed* decides the "
            "first weights and the order of the images.",
            ("preset", "seed"),
        ),
    ),
    "What to do with it": (
        Term(
            "What-if",
            "What would the model say if it had never seen these images, or seen them with other labels? The scores "
            "foretell it at once; one retraining shows it.",
            "The prediction is the model's value now minus the scores of the images left out. Of other labels there is "
            "no prediction, only the retraining.",
            ("what if", "prediction"),
        ),
        Term("Retraining", "Training again with images left out or relabelled, everything else the same."),
        Term(
            "Label noise",
            "Training images whose label is wrong. The model learns from them all the same, and they often harm.",
            also=("wrong label", "bad label"),
        ),
        Term(
            "Suspect",
            "A training image whose label is likely wrong: the model finds it improbable, or it harms.",
            "Look before you leave it out: a rare or hard image is suspected too.",
            ("suspects", "harm"),
        ),
        Term(
            "Explain",
            "To find the training images behind what the model says of a target: one replay gives every training image "
            "a score.",
        ),
        Term("Confusion", "One kind of mistake: test images of one class that the model takes for another."),
    ),
}
TERMS: dict[str, Term] = {
    word.lower(): term for terms in GROUPS.values() for term in terms for word in (term.name, *term.also)
}
"""By each of its words, in small letters."""


def address(word: str) -> str:
    """Where the page has a word. `KeyError` for one that is not in the table."""
    return link.to(PAGE, term=TERMS[word.lower()].anchor)


def help_text(word: str) -> str:
    """Markdown for a widget's `help`: what the word means, and where the glossary says more."""
    term = TERMS[word.lower()]
    return f"{term.help} [{term.name} in the glossary]({address(word)})"
