"""Which line of a task author's own code an error comes from: what they wrote, not what torch made of it."""

import linecache
import sys
from pathlib import Path
from traceback import walk_tb

FOREIGN = sys.stdlib_module_names | {"numpy", "onnx", "onnx_ir", "onnxscript", "skerry", "torch"}


def author_line(error: BaseException) -> str:
    """Return " (FILE, line N: CODE)" of the innermost line that is neither ours nor a library's, "" if there is none.

    Looked at are the frames from where `error` was caught inwards.
    """
    found = ""
    for frame, number in walk_tb(error.__traceback__):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
        if module and module.partition(".")[0] not in FOREIGN and not file.startswith("<"):
            code = linecache.getline(file, number, frame.f_globals).strip()
            found = f" ({Path(file).name}, line {number}{f': {code}' if code else ''})"
    return found
