"""The bed's modules by name, and where it cannot be."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def namespaces() -> None:
    """Skips where no machine of the bed can be made."""
    import machines

    lacking = [name for name in machines.NEEDED if shutil.which(name) is None]
    if os.geteuid() or lacking:
        pytest.skip(f"needs root and {', '.join(machines.NEEDED)}")
