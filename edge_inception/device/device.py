"""Check, build, verify, bench and classify on the device: the program of a bundle.

    python3 device.py check                  check that this is the target device, and is ready
    python3 device.py build                  compile the graph into an engine for this device
    python3 device.py verify [--images DIR]  compare the outputs with the validated engine's
    python3 device.py bench                  measure the latency of the engine on this device
    python3 device.py classify IMAGE...      print the most probable classes of image files

Exit codes: 0 passed, 2 usage, 3 bad input or a changed file, 4 library missing, 5 build failed,
6 outputs differ, 130 interrupted. An error is one line, and its fix is another.
This file travels to devices: Python 3.6 syntax, standard library and numpy.
"""

import argparse
import json
import os
import sys
import types
from typing import Any, Callable, List, Sequence, Tuple

sys.dont_write_bytecode = True  # no .pyc files: a bundle's files stay as they were made
_HERE = os.path.dirname(os.path.abspath(__file__))
if not __package__:
    # In a bundle all files lie side by side: every package that they import from is this folder.
    for _suffix in ("", ".data", ".device", ".engines", ".hardware"):
        _module = types.ModuleType("edge_inception" + _suffix)
        _module.__path__ = [_HERE]
        sys.modules[_module.__name__] = _module

from edge_inception.device import (  # noqa: E402 -- a bundle needs the lines above first
    errors,
    jetson_board,
    manifest,
    measure,
    outputs,
    readiness,
    records,
    replay,
    runtimes,
    signature,
    store,
    trtexec,
    verify,
)
from edge_inception.device.errors import Refusal  # noqa: E402

_INTERRUPTED = 130
_WARNINGS = 5  # of a build that are printed at most; the engine's JSON holds all


def main(arguments: List[str]) -> int:
    """Run one command and return its exit code; only this function reports refusals."""
    options = _parser().parse_args(arguments)
    if not options.command:
        _parser().print_help()
        return 2
    try:
        return int(options.run(_Session(options)))
    except Refusal as error:
        if options.json:
            _print_json({"status": "ERROR", "error": str(error), "fix": error.fix})
        sys.stderr.write("error: {}\nfix: {}\n".format(error, error.fix))
        return error.code
    except MemoryError as error:
        sys.stderr.write("error: not enough memory: {}\nfix: free memory\n".format(error))
        return errors.BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED


class _Session:
    """The bundle, the board's facts and the engine library that a command uses."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.bundle = manifest.open_bundle(options.bundle)
        note = signature.check(self.bundle, options.public_key)
        if note:
            self.say(note)
        self.board = jetson_board.read_board(self.bundle.root)
        self.runtime = self._open_runtime()

    def _open_runtime(self) -> Any:
        """The runtime of the bundle's target, or trtexec where TensorRT's bindings are missing."""
        accepts_float = getattr(self.options, "accept_float", False)
        runtime = runtimes.open_runtime(
            self.bundle, self.options.threads, accepts_float=accepts_float
        )
        tool = trtexec.find_trtexec()
        if runtime.name != "tensorrt" or tool is None:
            return runtime
        try:
            runtime.library()
        except Refusal as error:
            self.say("{}; using {}".format(error, tool))
            return trtexec.Trtexec(self.bundle, self.board, tool)
        return runtime

    def say(self, text: str) -> None:
        """Write a line to stderr, so that stdout holds only results."""
        sys.stderr.write(text + "\n")

    def open(self) -> Tuple[store.Engine, Any]:
        """This device's engine, and its open runner with ``run(images) -> dict`` and ``close()``.

        Raises:
            Refusal: There is no engine for this device, or the engine cannot be loaded.
        """
        engine = store.require(self.bundle, self.runtime)
        return engine, store.load(self.runtime, engine)


def _check(session: _Session) -> int:
    findings = readiness.check_device(session.bundle, session.runtime, session.board)
    failed = [entry for entry in findings if entry.status == readiness.FAILED]
    if session.options.json:
        _print_json(
            {
                "status": "FAILED" if failed else "PASSED",
                "bundle": session.bundle.identity,
                "findings": findings,
                "board": session.board,
            }
        )
    else:
        for entry in findings:
            print("{:<9}{:<12}{}".format(entry.status, entry.what, entry.detail))
            if entry.fix:
                print("{:<21}fix: {}".format("", entry.fix))
        print("FAILED: {}".format(failed[0].detail) if failed else "PASSED: ready to build")
    return failed[0].code if failed else 0


def _build(session: _Session) -> int:
    engine = None if session.options.force else store.find(session.bundle, session.runtime)
    is_new = engine is None
    if engine is None:
        session.say(
            "building with {} {}{}".format(
                session.runtime.name,
                session.runtime.version(),
                "; minutes on a Jetson" if session.runtime.name == "tensorrt" else "",
            )
        )
        engine = store.build(session.bundle, session.runtime)
    if session.options.json:
        facts = records.plain(engine.facts)
        _print_json(dict(facts, status="PASSED", built=is_new, path=engine.path))
        return 0
    print("{} {} ({})".format("built" if is_new else "unchanged", engine.path, _summary(engine)))
    for warning in (engine.facts.warnings or [])[:_WARNINGS]:
        print("warning: {}".format(warning))
    return 0


def _summary(engine: store.Engine) -> str:
    facts = engine.facts
    words = ["{:.1f} MiB".format(facts.bytes / (1 << 20)), facts.precision]
    if facts.precision == "int8" and facts.int8_layers:
        words[1] = "{} layers in int8".format(facts.int8_layers)
    if facts.dla_islands:
        words.append("{} pieces on DLA core {}".format(facts.dla_islands, facts.dla_core))
    return ", ".join(words)


def _verify(session: _Session) -> int:
    bundle, graph = session.bundle, session.runtime.graph()
    engine, runner = session.open()
    num_images = 0
    checks = [_files_check(bundle)]
    try:
        checks += verify.golden_checks(bundle, runner, graph.profile)
        if session.options.images:
            folder_checks, num_images = verify.folder_checks(
                bundle, runner, graph.profile, session.options.images
            )
            checks += folder_checks
    finally:
        runner.close()
    failed = [entry for entry in checks if entry.status == verify.FAILED]
    record = verify.Verification(
        status=verify.FAILED if failed else verify.PASSED,
        created_utc=store.utc_now(),
        bundle=bundle.identity,
        engine=engine.facts,
        checks=checks,
        num_images=num_images,
        board=session.board,
    )
    _report_verification(session, record, failed)
    return errors.GATE_FAILED if failed else 0


def _files_check(bundle: manifest.Bundle) -> verify.Check:
    count = len(bundle.record.files)
    sentence = "{} files are those of the manifest".format(count)
    return verify.Check("files", verify.PASSED, count, count, sentence)


def _report_verification(
    session: _Session, record: verify.Verification, failed: Sequence[verify.Check]
) -> None:
    if session.options.out:
        store.write_result(session.options.out, record)
    if session.options.json:
        _print_json(record)
        return
    if record.num_images:
        print("{} photos of the baseline were compared too".format(record.num_images))
    for entry in record.checks:
        print("{:<12} {:<18} {}".format(entry.status, entry.name, entry.sentence))
    reason = failed[0].sentence if failed else "this device answers as it was validated"
    print("{}: {}".format(record.status, reason))


def _bench(session: _Session) -> int:
    engine = store.require(session.bundle, session.runtime)
    options = session.options
    protocol = measure.Protocol(
        warmup_s=options.warmup, seconds=options.seconds, calls=options.calls
    )
    if isinstance(session.runtime, trtexec.Trtexec):
        run = session.runtime.timed_run(engine.path, protocol)
        record = measure.bench_record(
            session.bundle, session.runtime.graph(), engine, session.board, protocol, run
        )
    else:
        record = measure.bench(session.bundle, session.runtime, engine, session.board, protocol)
    if options.out:
        store.write_result(options.out, record)
    if options.json:
        _print_json(record)
        return 0
    (run,) = record.runs
    print(
        "batch {}, {} calls: p50 {:.2f} ms, p90 {:.2f} ms, p99 {:.2f} ms".format(
            record.protocol.batch, run.n, run.median, run.p90, run.p99
        )
    )
    for warning in run.warnings:
        print("warning: {}".format(warning))
    return 0


def _classify(session: _Session) -> int:
    bundle, head = session.bundle, session.bundle.record.head
    if head == "embedding":
        raise Refusal("this model's outputs are embeddings, not classes", "use another bundle")
    preprocess, profile = bundle.record.preprocess, session.runtime.graph().profile
    labels = _labels(bundle)
    _, runner = session.open()
    try:
        for path in session.options.image:
            image = verify.read_image(path, preprocess)
            rows = replay.run(runner, image[None], bundle, profile)
            scores = outputs.probabilities(rows, head)[0]
            _print_top(session.options, path, _top(scores, head, session.options.top, labels))
    finally:
        runner.close()
    return 0


def _labels(bundle: Any) -> List[str]:
    try:
        with open(bundle.path("labels.txt"), encoding="utf-8") as stream:
            return stream.read().splitlines()
    except OSError:
        return []


def _top(scores: Any, head: str, top: int, labels: List[str]) -> List[Tuple[str, float]]:
    limit = min(top, outputs.parse_head(head)[1] or top)
    order = (-scores).argsort(kind="mergesort")[:limit]
    return [(labels[i] if labels else str(i), float(scores[i])) for i in order]


def _print_top(options: argparse.Namespace, path: str, top: List[Tuple[str, float]]) -> None:
    if options.json:
        scores = [{"class": name, "score": score} for name, score in top]
        print(json.dumps({"image": path, "top": scores}))
    else:
        words = ", ".join("{} {:.1f}%".format(name, 100 * score) for name, score in top)
        print("{}: {}".format(path, words))


def _print_json(record: Any) -> None:
    sys.stdout.write(records.to_json(record))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="device.py", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    table: Tuple[Tuple[str, Callable[[_Session], int], str], ...] = (
        ("check", _check, "check that this is the target device and that it is ready to build"),
        ("build", _build, "compile the graph into an engine for this device"),
        ("verify", _verify, "compare the engine's outputs with those of the validated engine"),
        ("bench", _bench, "measure the latency of the engine on this device"),
        ("classify", _classify, "print the most probable classes of image files"),
    )
    parsers = [commands.add_parser(name, help=text, description=text) for name, _, text in table]
    for command, (_, run, _) in zip(parsers, table):
        command.set_defaults(run=run)
        _add_common(command)
    _, build, verify_, bench, classify = parsers
    build.add_argument(
        "--force", action="store_true", help="build even if the engine is up to date"
    )
    build.add_argument(
        "--accept-float", action="store_true", help="accept an int8 engine without int8 layers"
    )
    verify_.add_argument("--images", help="also compare the validation images in this folder")
    for command in (verify_, bench):
        command.add_argument("--out", help="also write the record to this JSON file")
    bench.add_argument("--calls", type=int, default=300, help="minimum number of timed calls")
    bench.add_argument(
        "--seconds", type=float, default=5.0, help="minimum duration of the timed calls in s"
    )
    bench.add_argument(
        "--warmup", type=float, default=2.0, help="minimum duration of the warm-up in s"
    )
    classify.add_argument("image", nargs="+", help="image file to classify")
    classify.add_argument("--top", type=int, default=5, help="number of classes to print")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--bundle", default=_HERE, help="folder of the bundle; default: that of this file"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all usable cores")
    parser.add_argument("--public-key", help="minisign public key file, to check the signature")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
