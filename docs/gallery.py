"""Make docs/gallery/: the executed notebooks of a run as Markdown pages with small pictures. Usage: python docs/gallery.py [RUN]."""

import io
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from PIL import Image

from m2clip_lib import paths

GALLERY = Path(__file__).parent / "gallery"
WIDTH = 900  # pixels; a page shows them no wider
COLOURS = 64


def small(png: bytes) -> bytes:
    """The picture no wider than WIDTH, with COLOURS colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def plain(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with tables that need no style sheet, without films, and without what papermill adds."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if "<video" in data.get("text/html", ""):
            data["text/html"] = "<p><i>Films, which play in the notebook and in the report.</i></p>"
        elif "text/html" in data:
            table = re.sub(r"<style.*?</style>|<script.*?</script>", "", data["text/html"], flags=re.DOTALL)
            data["text/html"] = re.sub(r' (?:style|class|id|border)="[^"]*"', "", table)
    return notebook


def linked(text: str, pages: list[str]) -> str:
    """The page's text with links that start at notebooks/ made to start here, and with the pages linked to one another."""
    text = re.sub(r"\]\((?:\.\./)?(?:notebooks/)?(\w+)\.ipynb\)", lambda m: f"]({place(m[1], pages)})", text)
    text = re.sub(r"\]\(\.\./(?!\.\./)", "](../../", text)
    return re.sub(r"\n(?:[ \t]*\n){2,}", "\n\n", text).replace("![png](", "![figure](").replace("<td >", "<td>").replace("<th >", "<th>")


def place(name: str, pages: list[str]) -> str:
    """Where a notebook is to be seen: its page, or the notebook itself."""
    return f"{name}.md" if name in pages else f"../../notebooks/{name}.ipynb"


def main(run: str) -> None:
    """Write a page per executed notebook, and the list of them."""
    notebooks = sorted((paths.RESULTS / run / "executed").glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        sys.exit(f"gallery: no executed notebooks in {paths.RESULTS / run / 'executed'}; make them with: m2clip run {run}")
    shutil.rmtree(GALLERY, ignore_errors=True)
    GALLERY.mkdir()
    pages = [file.stem for file in notebooks]
    for file in notebooks:
        notebook = plain(nbformat.read(file, as_version=4))
        text, found = MarkdownExporter().from_notebook_node(notebook, {"unique_key": file.stem, "output_files_dir": file.stem[:2]})
        for name, content in found["outputs"].items():
            picture = GALLERY / name
            picture.parent.mkdir(exist_ok=True)
            picture.write_bytes(small(content))
        (GALLERY / f"{file.stem}.md").write_text(linked(text, pages), encoding="utf-8")
    listed = "".join(f"- [{page.replace('_', ' ')}]({page}.md)\n" for page in pages)
    made = f"The notebooks of `m2clip run {run}`, executed, with smaller pictures and without films. Made by `make gallery`.\n"
    (GALLERY / "README.md").write_text(f"# Gallery\n\n{made}\n{listed}", encoding="utf-8")
    size = sum(file.stat().st_size for file in GALLERY.rglob("*.*"))
    print(f"{GALLERY}: {len(pages)} pages, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
