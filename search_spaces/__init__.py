"""What a search may vary: one small class a file, found by its file name.

from search_spaces import Choice, Integer, Real, Space, load_space, space_names
"""

from search_spaces._loading import load_space, space_names
from search_spaces._space import Choice, Integer, Parameter, Point, Real, Space, Value

__all__ = [
    "Choice",
    "Integer",
    "Parameter",
    "Point",
    "Real",
    "Space",
    "Value",
    "load_space",
    "space_names",
]
