"""Remove from a folder of installed packages what no function loads. Licences stay, and so do the modules themselves.

Usage: trim.py FOLDER
"""

import shutil
import sys
from pathlib import Path

UNUSED = (
    # For writing and converting graphs. The Python binding holds the runtime itself: the library is for C programs.
    "onnxruntime/backend", "onnxruntime/datasets", "onnxruntime/quantization", "onnxruntime/tools",
    "onnxruntime/transformers", "onnxruntime/capi/libonnxruntime.so*",
    # For building extensions, and for tests.
    "numpy/_core/include", "numpy/_core/lib", "numpy/_pyinstaller", "numpy/f2py", "numpy/random/include", "numpy/random/lib",
    "**/tests", "**/testing", "**/conftest.py", "**/*.pyi", "**/*.pyx", "**/*.pxd", "bin",
    # Formats that we do not accept, text, colour management, windows.
    "PIL/_avif*", "pillow.libs/libavif*", "PIL/_imagingft*", "pillow.libs/libfreetype*", "pillow.libs/libharfbuzz*",
    "pillow.libs/libbrotli*", "PIL/_imagingcms*", "pillow.libs/liblcms2*", "PIL/_imagingtk*",
    # Other databases.
    "sqlalchemy/dialects/mssql", "sqlalchemy/dialects/mysql", "sqlalchemy/dialects/oracle",
    # Documentation.
    "boto3/examples", "botocore/data/*/*/examples-1.json*",
)
SERVICES = {"s3"}  # of AWS that boto3 is asked for


def trim(folder: Path) -> None:
    """Remove what UNUSED names, and the services that are not in SERVICES. What is missing was already gone."""
    unused = [path for pattern in UNUSED for path in folder.glob(pattern)]
    services = [path for data in folder.glob("boto*/data") for path in data.iterdir() if path.is_dir()]
    for path in unused + [path for path in services if path.name not in SERVICES]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
