//! `gpu-bridge embed`: a file's texts, in the background, each row once however often it is interrupted.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{
    Behaviour, Process, Proxy, Reply, SimHost, Vectors, embed_body, embedding_of, eventually,
    gpu_bridge, sim_host,
};

const ROWS: u64 = 500;

/// Some rows with an `id`, some without.
fn write_rows(file: &Path, rows: u64) {
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

struct Scene {
    folder: tempfile::TempDir,
    url: String,
}

impl Scene {
    fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_rows(&folder.path().join("in"), ROWS);
        Self {
            folder,
            url: url.to_owned(),
        }
    }

    fn of(proxy: &Proxy) -> Self {
        Self::new(&format!("http://{}", proxy.address()))
    }

    fn embed(&self, arguments: &[&str]) -> Command {
        let mut command = gpu_bridge();
        command.current_dir(self.folder.path());
        command.args([
            "embed", "--in", "in", "--out", "out", "--batch", "7", "--model", "sim", "--url",
            &self.url,
        ]);
        command.args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let (code, out, errors) = Process::run(&mut self.embed(arguments)).await;
        assert_eq!(out, "");
        (code, errors)
    }

    fn written(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("out")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Every row is there once, in its place, with its own vector.
    fn assert_whole(&self) {
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

fn hosts() -> [SimHost; 3] {
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
    let out = scene.folder.path().join("out");
    let mut text = std::fs::read(&out).unwrap();
    text.extend(br#"{"line":4"#);
    std::fs::write(&out, text).unwrap();
    let (code, told) = scene.run(&[]).await;
    assert_eq!(code, Some(0), "{told}");
    scene.assert_whole();
    let (code, told) = scene.run(&[]).await;
    assert_eq!((code, told.as_str()), (Some(0), "nothing is left to do\n"));
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
        told.contains(&format!("ends with line {last} of another input")),
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
async fn a_text_that_hosts_refuse_is_found_in_its_batch() {
    let hosts = hosts();
    let refuse = Behaviour::For(
        "text 41",
        Box::new(Behaviour::answer(422, "too long")),
        Box::new(Behaviour::Serve),
    );
    for host in &hosts {
        host.set(refuse.clone());
    }
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let scene = Scene::of(&proxy);
    let (code, told) = scene.run(&[]).await;
    assert_eq!(code, Some(1));
    assert!(
        told.contains("line 41: the text is refused: 422: too long"),
        "{told}"
    );
    assert_eq!(scene.written().len(), 40);
    let (code, told) = scene.run(&["--keep-going"]).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("1 rows were refused"), "{told}");
    let written = scene.written();
    assert_eq!(written.len() as u64, ROWS);
    for (row, written) in (1..).zip(written) {
        assert_eq!(written["line"], row);
        assert_eq!(written["error"].is_null(), row != 41);
        assert_eq!(written["embedding"].is_null(), row == 41);
    }
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
