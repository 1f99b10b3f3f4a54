"""The demonstration's pictures and videos, drawn by the workbook itself."""
