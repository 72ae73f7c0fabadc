"""The pictures of a data set and their captions, as a page shows and edits them."""

from . import captioners
from .edit import Change, Edit
from .folder import Folder
from .item import Item, Statistics

__all__ = ["Change", "Edit", "Folder", "Item", "Statistics", "captioners"]
