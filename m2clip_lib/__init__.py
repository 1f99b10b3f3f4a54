"""M2CLIP workbook: adapt a frozen CLIP to video action recognition and see what it learned.

Data flows one way: data -> models -> evaluate -> train -> studies; attention beside them, viz and the notebooks on top.
"""

__version__ = "0.1.0"
