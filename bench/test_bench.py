"""Tests of what the benchmark computes by itself: `python3 -m unittest discover bench`."""

import json
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import client
import forward
import report
import services
import serving
import texts
from client import AnswerError, Request
from forward import SetResult, Timing
from plan import FULL, QUICK, Plan
from services import Kind


class Texts(unittest.TestCase):
    def test_every_word_is_given_once(self) -> None:
        for words in (texts.ADJECTIVES, texts.NOUNS, texts.VERBS, texts.PLACES):
            self.assertEqual(len(words), len(set(words)))

    def test_a_text_has_the_tokens_that_were_asked_for(self) -> None:
        for tokens in (4, 12, 60, 256):
            text = texts.equal_lengths(1, tokens, seed=1).texts[0]
            words = text.replace(".", " .").split()
            self.assertEqual(len(words) + texts.SPECIAL_TOKENS, tokens)

    def test_the_same_seed_gives_the_same_texts_and_another_one_others(self) -> None:
        self.assertEqual(texts.mixed_lengths(20, seed=1), texts.mixed_lengths(20, seed=1))
        self.assertNotEqual(texts.mixed_lengths(20, seed=1), texts.mixed_lengths(20, seed=2))

    def test_mixed_lengths_are_skewed_and_within_bounds(self) -> None:
        lengths = sorted(texts.mixed_lengths(2000, seed=1).lengths)
        self.assertEqual((lengths[0], lengths[-1]), (texts.SHORTEST, texts.LONGEST))
        self.assertAlmostEqual(lengths[1000], texts.MEDIAN_TOKENS, delta=3)
        self.assertGreater(sum(lengths) / 2000, 1.4 * texts.MEDIAN_TOKENS)


class Forward(unittest.TestCase):
    def test_the_operations_of_a_small_model_are_those_counted_by_hand(self) -> None:
        # 3 layers, H = 2, I = 8: 48 weights a layer. A text of 5 tokens: 2·5·48 + 4·25·2 = 680.
        config = {"num_hidden_layers": 3, "hidden_size": 2, "intermediate_size": 8}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config))
            self.assertEqual(forward.forward_flop(Path(folder), [5, 5]), 3 * 2 * 680)

    def test_a_target_is_met_by_the_median(self) -> None:
        timings = {"ours": Timing((1.0, 2.0, 3.0)), "torch": Timing((3.0, 3.0, 9.0))}
        found = SetResult(texts.equal_lengths(1, 4, 1), False, timings, 0.0, 1.0)
        cells = ("1.50× (3.00×)", "1.5×: met")
        self.assertEqual(report.ratio_cells(found, "ours", "torch", 1.5), cells)
        self.assertEqual(report.ratio_cells(found, "ours", "torch", 1.6)[1], "1.6×: missed")

    def test_who_did_not_run_is_not_compared_with(self) -> None:
        timings = {name: Timing((1.0,)) for name in ("ours", "torch", "OpenVINO bf16")}
        found = SetResult(texts.equal_lengths(1, 4, 1), False, timings, 0.0, 1.0)
        self.assertEqual([row[1:3] for row in report.ratio_rows(found)], [("ours", "torch")])

    def test_the_difference_is_the_largest_of_any_two_in_any_place(self) -> None:
        rows = [[1.0, 2.0], [1.5, 2.0], [0.5, 2.5]]
        self.assertEqual(forward.largest_difference(rows), 1.0)


class Serving(unittest.TestCase):
    def test_in_a_visit_each_client_sends_as_many_requests_but_not_too_many(self) -> None:
        for cell in serving.cells(FULL):
            each, rest = divmod(len(serving.work_of_visit(cell, FULL, visit=0)), cell.clients)
            self.assertEqual(rest, 0, cell)
            self.assertTrue(1 <= each <= FULL.requests_per_client, cell)

    def test_a_visit_ends_at_about_the_tokens_it_is_meant_to_send(self) -> None:
        cell = serving.Cell(serving.EMBED, "medium", batch=8, clients=4)
        work = serving.work_of_visit(cell, FULL, visit=0)
        self.assertEqual(sum(text_set.tokens for text_set in work), 20 * 480)

    def test_quick_measures_a_part_of_what_full_does(self) -> None:
        self.assertLess(set(serving.cells(QUICK)) - bertscore(QUICK), set(serving.cells(FULL)))

    def test_differences_are_those_to_ours(self) -> None:
        names = (services.OURS, services.PYTHON, services.TEI)
        kinds = [Kind(name, lambda _: [], {}, services.embed_request, json.loads) for name in names]
        answers = (b"[[1, 2], [3, 4]]", b"[[1, 2], [3, 4]]", b"[[1, 2.5], [2, 4]]")
        loads = {
            name: (client.Load((), 1.0, 0, 0, answer),)
            for name, answer in zip(names, answers, strict=True)
        }
        cell = serving.Cell(serving.EMBED, "short", batch=2, clients=1)
        found = serving.differences(kinds, cell, loads)
        self.assertEqual(found, {services.PYTHON: 0.0, services.TEI: 1.0})

    def test_everyone_is_first_in_turn(self) -> None:
        turns = [serving.turned("abc", turn) for turn in range(3)]
        self.assertEqual(turns, [list("abc"), list("bca"), list("cab")])


def bertscore(plan: Plan) -> set[serving.Cell]:
    return {cell for cell in serving.cells(plan) if cell.path == serving.BERTSCORE}


class Client(unittest.TestCase):
    def test_each_request_is_sent_once_and_a_refused_one_again(self) -> None:
        requests = [Request("/x", str(number).encode(), items=3) for number in range(8)]
        with stub(refuse_first=2) as seen_by:
            load = client.send_all(seen_by.address, requests, clients=4)
        answered = sorted(seen_by.answered)
        self.assertEqual(answered, [request.body for request in requests])
        self.assertEqual((load.items, load.refusals, len(load.latencies)), (24, 2, 8))
        self.assertEqual(load.first_answer, b"0")

    def test_a_wrong_answer_ends_the_benchmark(self) -> None:
        with stub(status=500) as broken, self.assertRaisesRegex(AnswerError, "500"):
            client.send_all(broken.address, [Request("/x", b"0", items=1)], clients=1)


class stub:
    """A server that echoes bodies, at first refusing some."""

    def __init__(self, refuse_first: int = 0, status: int = 200):
        self.answered: list[bytes] = []
        refusals = list(range(refuse_first))
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    code = client.BUSY if refusals else status
                    refusals.pop() if refusals else outer.answered.append(body)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "stub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    unittest.main()
