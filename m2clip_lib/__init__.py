"""M2CLIP workbook: adapt a frozen CLIP to video action recognition and see what it learned.

Data flows one way: data -> models -> engine -> viz; the notebooks stand on top.
"""

__version__ = "0.1.0"
