//! `gpu-bridge embed`: a file's texts, in the background, each row once however often it is interrupted.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::harness::{
    Answer, Behaviour, Process, Proxy, Reply, SimHost, Vectors, embed_body, embedding_of,
    eventually, gpu_bridge, sim_host,
};

pub(crate) const ROWS: u64 = 500;

/// Some rows with an `id`, some without.
pub(crate) fn write_rows(file: &Path, rows: u64) {
    let text = (1..=rows).fold(String::new(), |mut text, row| {
        let _ = match row % 2 {
            0 => writeln!(
                text,
                "{}",
                json!({"id": {"n": row}, "text": format!("text {row}")})
            ),
            _ => writeln!(text, "{}", json!(format!("text {row}"))),
        };
        text
    });
    std::fs::write(file, text).unwrap();
}

pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
    url: String,
}

impl Scene {
    pub(crate) fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_rows(&folder.path().join("in"), ROWS);
        Self {
            folder,
            url: url.to_owned(),
        }
    }

    pub(crate) fn of(proxy: &Proxy) -> Self {
        Self::new(&format!("http://{}", proxy.address()))
    }

    /// Without a model.
    fn command(&self) -> Command {
        let mut command = gpu_bridge();
        command.current_dir(self.folder.path());
        command.args([
            "embed", "--in", "in", "--out", "out", "--batch", "7", "--url", &self.url,
        ]);
        command
    }

    fn embed(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["--model", "sim"]).args(arguments);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        Self::outcome(self.embed(arguments)).await
    }

    async fn outcome(mut command: Command) -> (Option<i32>, String) {
        let (code, out, errors) = Process::run(&mut command).await;
        assert_eq!(out, "");
        (code, errors)
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    fn set_output(&self, text: &str) {
        std::fs::write(self.folder.path().join("out"), text).unwrap();
    }

    pub(crate) fn written(&self) -> Vec<Value> {
        let text = self.output();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Every row is there once, in its place, with its own vector.
    pub(crate) fn assert_whole(&self) {
        let written = self.written();
        assert_eq!(written.len() as u64, ROWS);
        for (row, written) in (1..).zip(written) {
            assert_eq!(written["line"], row);
            assert_eq!(
                written["embedding"],
                json!(embedding_of(&format!("text {row}"))),
                "{row}"
            );
            let id = if row % 2 == 0 {
                json!({"n": row})
            } else {
                Value::Null
            };
            assert_eq!(written["id"], id);
        }
    }
}

pub(crate) fn hosts() -> [SimHost; 3] {
    ["a", "b", "c"].map(|name| sim_host(name).start())
}

#[tokio::test]
async fn a_host_that_dies_half_way_costs_no_row() {
    let hosts = hosts();
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    hosts[2].set(Behaviour::ServeWhenReleased);
    let scene = Scene::of(&proxy);
    let mut running = Process::start("embed", &mut scene.embed(&[]));
    eventually("the host has work", async || hosts[2].arrivals() > 0).await;
    hosts[2].stop();
    assert!(running.ended().await.success(), "{}", running.log());
    scene.assert_whole();
    let asked = &hosts[0].record().requests[0];
    assert_eq!(asked.headers["priority"], "u=7");
}

#[tokio::test]
async fn however_it_is_killed_it_goes_on_where_it_was() {
    let hosts = hosts();
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let scene = Scene::of(&proxy);
    for part in 1..=3 {
        let before = scene.written().len();
        for host in &hosts {
            host.set(Behaviour::ServeWhenReleased);
        }
        let mut running = Process::start("embed", &mut scene.embed(&["--concurrency", "2"]));
        let name = format!("part {part} goes on");
        eventually(&name, async || {
            for host in &hosts {
                host.release(1);
            }
            scene.written().len() > before
        })
        .await;
        running.signal("KILL").await;
        running.ended().await;
    }
    for host in &hosts {
        host.set(Behaviour::Serve);
        host.release_all();
    }
    // As after a crash in the middle of a line.
    scene.set_output(&(scene.output() + r#"{"line":4"#));
    let (code, told) = scene.run(&[]).await;
    assert_eq!(code, Some(0), "{told}");
    scene.assert_whole();
    let (code, told) = scene.run(&[]).await;
    let nothing = "nothing is left to do; the vectors are of sim, 4 numbers\n";
    assert_eq!((code, told.as_str()), (Some(0), nothing));
    scene.assert_whole();
}

#[tokio::test]
async fn what_can_not_go_on_says_where_and_why_and_leaves_what_there_is() {
    let hosts = hosts();
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let scene = Scene::of(&proxy);
    let input = scene.folder.path().join("in");
    let rows = std::fs::read_to_string(&input).unwrap();
    let spoiled = rows.replace("text 300\"}", "text 300\", secret}");
    std::fs::write(&input, spoiled).unwrap();
    let (code, told) = scene.run(&[]).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("in: line 300: it is not JSON"), "{told}");
    assert!(!told.contains("secret"), "{told}");
    assert!(scene.written().len() < 300);

    // Mended, but another row is another one than before.
    let last = scene.written().len();
    let other = rows.replace(&format!("text {last}\""), "another\"");
    std::fs::write(&input, other).unwrap();
    let (code, told) = scene.run(&[]).await;
    assert_eq!(code, Some(1));
    assert!(
        told.contains(&format!("out: line {last}: it is of another input")),
        "{told}"
    );

    std::fs::write(&input, &rows).unwrap();
    for host in &hosts {
        host.set_vectors(Vectors::OtherDimensions);
    }
    let (code, told) = scene.run(&[]).await;
    assert_eq!(code, Some(1));
    assert!(
        told.contains(&format!("line {}: its vector is of another kind", last + 1)),
        "{told}"
    );
    for host in &hosts {
        host.set_vectors(Vectors::Right);
    }
    assert_eq!(scene.run(&[]).await.0, Some(0));
    scene.assert_whole();
}

#[tokio::test]
async fn a_finished_file_is_of_one_model() {
    let host = sim_host("host").start();
    let scene = Scene::new(&host.url());
    write_rows(&scene.folder.path().join("in"), 3);
    assert_eq!(scene.run(&[]).await.0, Some(0));
    for (model, expected) in [("other", Some(1)), ("owner/sim", Some(0))] {
        let mut command = scene.command();
        command.args(["--model", model]);
        let (code, told) = Scene::outcome(command).await;
        assert_eq!(code, expected, "{told}");
    }
}

#[tokio::test]
async fn a_line_of_somebody_else_s_is_not_cut_off() {
    let host = sim_host("host").start();
    let scene = Scene::new(&host.url());
    let foreign = r#"{"line":1,"text":"mine"}"#;
    scene.set_output(foreign);
    let (code, told) = scene.run(&[]).await;
    assert_eq!((code, scene.output().as_str()), (Some(1), foreign));
    assert!(told.contains("name another file"), "{told}");
    scene.set_output(r#"{"line":1,"text_sha256":"#);
    assert_eq!(scene.run(&[]).await.0, Some(0));
    scene.assert_whole();
}

#[tokio::test]
async fn others_go_before_what_runs_in_the_background() {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let first = client.start_embed("first");
    eventually("the slot is taken", async || host.record().running == 1).await;
    let background = client
        .request(http::Method::POST, "/embed")
        .header("priority", "u=7");
    let background = tokio::spawn(Reply::to(background.json(&embed_body("background"))));
    proxy.queues(1).await;
    let usual = client.start_embed("usual");
    proxy.queues(2).await;
    host.release_all();
    for reply in [first, background, usual] {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    assert_eq!(host.record().taken_on, ["first", "usual", "background"]);
}

/// Whoever reads the file takes all of its vectors for ones of one model and of these rows.
#[tokio::test]
async fn all_that_is_written_must_suit_the_input_before_it_goes_on() {
    let host = sim_host("host").start();
    let scene = Scene::new(&host.url());
    assert_eq!(scene.run(&[]).await.0, Some(0));
    let whole = scene.output();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let before = lines[..20].concat();
    let refused = r#"{"line":21,"text_sha256":"SHA","error":"422: too long"}"#;
    let sha256 = scene.written()[20]["text_sha256"].clone();
    let refused = refused.replace("SHA", sha256.as_str().unwrap()) + "\n";
    let of_another = |from: &str, to: &str| {
        let text = before.replacen(from, to, 1);
        assert_ne!(text, before);
        text
    };
    for (output, line, why) in [
        (of_another("{\"n\":4}", "{\"n\":5}"), 4, "another input"),
        (of_another("\"line\":3,", "\"line\":2,"), 3, "another input"),
        (
            of_another("\"model\":\"sim\"", "\"model\":\"rim\""),
            2,
            "another kind",
        ),
    ] {
        scene.set_output(&output);
        let (code, told) = scene.run(&[]).await;
        assert_eq!((code, scene.output()), (Some(1), output), "{told}");
        let expected = format!("out: line {line}: ");
        assert!(told.contains(&expected) && told.contains(why), "{told}");
    }

    // Rows without a vector at the end hide neither what the vectors before them are, nor themselves.
    let output = before + &refused;
    scene.set_output(&output);
    host.set_vectors(Vectors::OtherDimensions);
    let (code, told) = scene.run(&[]).await;
    assert_eq!((code, scene.output()), (Some(1), output), "{told}");
    assert!(
        told.contains("in: line 22: its vector is of another kind"),
        "{told}"
    );
    host.set_vectors(Vectors::Right);
    let (code, told) = scene.run(&[]).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("1 rows were refused"), "{told}");
    assert_eq!(scene.written().len() as u64, ROWS);
}

#[tokio::test]
async fn the_model_that_is_found_first_is_asked_for_from_then_on() {
    let host = sim_host("host").start();
    let scene = Scene::new(&host.url());
    write_rows(&scene.folder.path().join("in"), 14);
    assert_eq!(Scene::outcome(scene.command()).await.0, Some(0));
    write_rows(&scene.folder.path().join("in"), 21);
    assert_eq!(Scene::outcome(scene.command()).await.0, Some(0));
    let asked = host.record().requests;
    let bodies: Vec<_> = asked.iter().map(|request| request.sha256).collect();
    let expected =
        [(1, ""), (8, r#","model":"sim""#), (15, r#","model":"sim""#)].map(|(from, model)| {
            let texts: Vec<_> = (from..from + 7).map(|row| format!("text {row}")).collect();
            let body = format!("{{\"texts\":{}{model}}}", json!(texts));
            Some(Sha256::digest(body).into())
        });
    assert_eq!(bodies, expected);
}

#[tokio::test]
async fn json_for_people_makes_one_line() {
    let body = "{\n  \"embeddings\": [\n    [\n      1.50,\n      2\n    ]\n  ],\n  \"model\": \"sim\"\n}\n";
    let host = sim_host("host").start();
    host.set(Behaviour::Answer(Answer::result(body)));
    let scene = Scene::new(&host.url());
    write_rows(&scene.folder.path().join("in"), 1);
    assert_eq!(scene.run(&[]).await.0, Some(0));
    let output = scene.output();
    assert!(output.ends_with("\"embedding\":[1.50,2]}\n"), "{output}");
    assert_eq!(scene.run(&[]).await.0, Some(0), "it is read again");
}

#[tokio::test]
async fn patience_ends_with_a_host_that_never_answers_or_asks_for_more() {
    for (behaviour, why) in [
        (Behaviour::Hang, "no whole answer has come"),
        (Behaviour::busy(3600), "503: "),
    ] {
        let host = sim_host("host").behaving(behaviour).start();
        let scene = Scene::new(&host.url());
        let (code, told) = scene.run(&["--patience", "300ms"]).await;
        assert_eq!((code, scene.output().as_str()), (Some(1), ""));
        let gave_up = format!("gave up at line 1: {why}");
        assert!(told.contains(&gave_up), "{told}");
    }
}

#[tokio::test]
async fn an_id_of_nothing_is_the_same_as_none() {
    let host = sim_host("host").start();
    let scene = Scene::new(&host.url());
    let row = r#"{"id":null,"text":"a"}"#;
    let input = scene.folder.path().join("in");
    std::fs::write(&input, format!("{row}\n")).unwrap();
    assert_eq!(scene.run(&[]).await.0, Some(0));
    std::fs::write(&input, format!("{row}\n{row}\n")).unwrap();
    let (code, told) = scene.run(&[]).await;
    assert_eq!((code, scene.written().len()), (Some(0), 2), "{told}");
}

#[tokio::test]
async fn what_can_not_work_is_said_at_once() {
    let scene = Scene::new("http://127.0.0.1:9");
    for (arguments, why) in [
        (
            ["--in", "-", "--out", "out", "--field", "text"],
            "standard input",
        ),
        (
            ["--in", "in", "--out", "-", "--field", "text"],
            "standard input",
        ),
        (
            [
                "--in",
                "in",
                "--out",
                "out",
                "--url",
                "http://127.0.0.1:9/v1/",
            ],
            "without /v1",
        ),
    ] {
        let mut command = gpu_bridge();
        command.current_dir(scene.folder.path());
        command.arg("embed").args(arguments);
        let (code, told) = Scene::outcome(command).await;
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(why), "{told}");
    }
}
