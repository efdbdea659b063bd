"""`python -m suan.recipes.corpus`."""

import sys

from suan.recipes.corpus import main

sys.exit(main())
