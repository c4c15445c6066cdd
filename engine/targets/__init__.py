"""What is asked: targets (`names`), functions of them (`functions`), what people write for both (`texts`). No torch."""

from engine.targets.functions import FAMILIES, FUNCTIONS, FunctionFamily, TargetFunction, target_function
from engine.targets.members import OWN, TEST, TRAIN, Members
from engine.targets.names import AllTests, ClassOfTests, Confusion, Target, TestImage, TrainImage, UploadedImage
from engine.targets.texts import read_function, read_targets, split_targets

__all__ = [
    "FAMILIES",
    "FUNCTIONS",
    "OWN",
    "TEST",
    "TRAIN",
    "AllTests",
    "ClassOfTests",
    "Confusion",
    "FunctionFamily",
    "Members",
    "Target",
    "TargetFunction",
    "TestImage",
    "TrainImage",
    "UploadedImage",
    "read_function",
    "read_targets",
    "split_targets",
    "target_function",
]
