"""What the README promises is run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_ten_lines_of_python_run():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["scores"].dtype == np.float32 and names["scores"].shape == (3, 1000)
    assert np.abs(names["scores"]).max() > 0
