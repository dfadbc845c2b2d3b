"""The program inside the sandbox: imports what the suite needs, says READY, then calls the stack as the judge asks.

`sample.py DEVICE`, mounted read-only as /harness/sample.py next to `protocol.py`, `tensors.py` and the suite's half
`suite_sample.py`. It shares its process with the submitted code, so nothing it sends is believed: clock, inputs, expected answers and verdict are with
the judge.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from typing import Any

import protocol  # type: ignore[import-not-found]  # they are next to this file inside the sandbox
import sealed  # type: ignore[import-not-found]
from protocol import HEAD, Kind, ProtocolError

TREE = "/tree"
MAX_ERROR_CHARACTERS = 8_000
NEVER_NS = 1 << 62  # the judge keeps the deadlines


class Pipe:
    """Frames over the process's first stdin and stdout, kept away from the stack's prints."""

    def __init__(self) -> None:
        self._incoming, self._outgoing = os.dup(0), os.dup(1)
        self._socket = sealed.inherited_socket()
        os.dup2(2, 1)  # what the stack prints goes to the log
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    def send(self, buffers: list[Any]) -> None:
        for buffer in buffers:
            view = memoryview(buffer)
            while view.nbytes:
                view = view[os.write(self._outgoing, view) :]

    def read(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view.nbytes:
            count = os.readv(self._incoming, [view])
            if count == 0:
                raise SystemExit(0)  # the judge is done
            view = view[count:]
        return data

    def receive(self) -> tuple[Kind, int, dict[str, Any], memoryview]:
        """The next frame; a large payload comes separately, in sealed memory."""
        kind, sequence, header_bytes, payload_bytes = protocol.parse_head(bytes(self.read(HEAD.size)))
        fields = protocol.decode_header(bytes(self.read(header_bytes)))
        if "sealed" in fields:
            payload = memoryview(sealed.receive_sealed(self._socket, fields["sealed"], NEVER_NS))
        else:
            payload = memoryview(self.read(payload_bytes))
        return kind, sequence, fields, payload

    def answer(self, sequence: int, tensors: dict[str, Any], lent_bytes: int | None) -> None:
        """Through the pipe, or where the judge lent memory of the right size, in that."""
        rows = [(name, *raw) for name, raw in tensors.items()]
        if lent_bytes is None:
            self.send(protocol.encode_tensors(Kind.RESULT, sequence, rows))
            return
        parts = [data for *_, data in rows]
        if sum(memoryview(part).nbytes for part in parts) == lent_bytes:
            sealed.fill_lent(self._socket, parts, NEVER_NS)
        # Another size shows in the header, and the judge says what it asked for.
        self.send(protocol.encode_frame(Kind.RESULT, sequence, {"tensors": protocol.tensor_fields(rows)}))


def main() -> None:
    pipe = Pipe()
    gc.disable()  # to look through all that torch makes while it is imported takes a tenth of the time
    # Imports torch: before any clock starts, and before the tree can be reached.
    import suite_sample  # type: ignore[import-not-found]  # next to this file inside the sandbox

    device = sys.argv[1]
    suite_sample.prepare(int(os.environ["OMP_NUM_THREADS"]), device)
    gc.freeze()
    gc.enable()
    pipe.send(protocol.encode_frame(Kind.READY, 0, {}))
    sys.path.insert(0, TREE)
    state: Any = None
    while True:
        kind, sequence, fields, payload = pipe.receive()
        stage = kind.name.lower()
        try:
            if kind is Kind.LOAD:
                config = {**fields["config"], "device": device}
                state = suite_sample.build(config, protocol.split_tensors(fields, payload))
                del payload
                gc.collect()
                gc.freeze()
                answer = protocol.encode_frame(Kind.LOADED, sequence, {})
            elif kind is Kind.CALL:
                answers = suite_sample.call(state, protocol.split_tensors(fields, payload))
                pipe.answer(sequence, answers, fields.get("lent"))
                continue
            elif kind is Kind.ECHO:
                pipe.answer(sequence, protocol.split_tensors(fields, payload), fields.get("lent"))
                continue
            else:
                raise ProtocolError(f"a sample is not sent {stage}")
        except Exception:
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            answer = protocol.encode_frame(
                Kind.ERROR, sequence, {"stage": stage, "error": text[-MAX_ERROR_CHARACTERS:]}
            )
        pipe.send(answer)


if __name__ == "__main__":
    main()
