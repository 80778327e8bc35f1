"""A hook of mkdocs: the script with which the search works in pages that are opened as files, without a network.

Material's search runs in a worker, and browsers start none for ``file://``; its offline plugin loads ``iframe-worker``
from unpkg.com instead. Here the file comes from the package on npm, once, and becomes a part of the site. Material
leaves its own address out where ``extra.polyfills`` in mkdocs.yml names ``iframe-worker``.
"""

import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

VERSION = "1.0.4"
ADDRESS = f"https://registry.npmjs.org/iframe-worker/-/iframe-worker-{VERSION}.tgz"
SHA256 = "e8c5d12d87829c503afba01d67772ea9f4aba5b7ae57a0c98e1917711030efbb"
CACHE = Path(__file__).parents[2] / ".cache" / Path(ADDRESS).name


def on_files(files, config):
    """Add the script, below its licence."""
    with tarfile.open(fileobj=io.BytesIO(package())) as archive:
        licence, script = (
            archive.extractfile(f"package/{name}").read().decode() for name in ("LICENSE", "shim/index.js")
        )
    (path,) = config.extra["polyfills"]
    files.append(File.generated(config, path, content=f"/*\niframe-worker {VERSION}\n{licence}*/\n{script}"))
    return files


def package():
    """Return the package, which is downloaded once."""
    content = CACHE.read_bytes() if CACHE.is_file() else download()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise PluginError(f"{ADDRESS} or {CACHE} is not what it was: its sha256 is not {SHA256}.")
    CACHE.parent.mkdir(exist_ok=True)
    CACHE.write_bytes(content)
    return content


def download():
    """Return what the address gives."""
    try:
        with urllib.request.urlopen(ADDRESS, timeout=60) as answer:
            return answer.read()
    except OSError as error:
        raise PluginError(f"{ADDRESS} gives nothing ({error}): put the file into {CACHE.parent}/.") from error
