"""What is asked: targets (`names`) and functions of them (`functions`). No torch."""

from engine.targets.functions import FUNCTIONS, TargetFunction, target_function
from engine.targets.names import AllTests, ClassOfTests, Target, TestImage, UploadedImage

__all__ = [
    "FUNCTIONS",
    "AllTests",
    "ClassOfTests",
    "Target",
    "TargetFunction",
    "TestImage",
    "UploadedImage",
    "target_function",
]
