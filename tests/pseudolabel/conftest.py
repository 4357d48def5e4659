import sys
from pathlib import Path

# Tests here share `tiny_methods`, which other processes import and run too.
sys.path.insert(0, str(Path(__file__).parent))
