//! `gpu-bridge embed` with texts that are refused, or on which hosts fail: who is to blame.

use serde_json::json;

use crate::bulk::{ROWS, Scene, hosts, write_rows};
use crate::harness::{Behaviour, Proxy, eventually, sim_host};

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
async fn a_text_on_which_hosts_fail_is_found_in_its_batch() {
    let fail = Behaviour::For(
        "text 3",
        Box::new(Behaviour::answer(500, "no: text 3")),
        Box::new(Behaviour::Serve),
    );
    let host = sim_host("host").behaving(fail).start();
    let scene = Scene::new(&host.url());
    write_rows(&scene.folder.path().join("in"), 7);
    let (code, told) = scene.run(&["--keep-going"]).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("1 rows were refused"), "{told}");
    let written = scene.written();
    let failed = written.iter().filter(|row| row["embedding"].is_null());
    let failed: Vec<_> = failed.map(|row| (&row["line"], &row["error"])).collect();
    let why = json!("500: the hosts fail, each time it is asked for");
    assert_eq!((written.len(), failed), (7, vec![(&json!(3), &why)]));

    // All texts alike: it is the hosts.
    host.set(Behaviour::answer(500, "broken"));
    write_rows(&scene.folder.path().join("in"), 9);
    let (code, told) = scene.run(&["--keep-going"]).await;
    assert_eq!((code, scene.written().len()), (Some(1), 7));
    assert!(told.contains("all texts are refused alike: 500"), "{told}");
}

/// They are well again once the first text has been given up: after three tries of all, of three and of it alone.
#[tokio::test]
async fn hosts_that_fail_for_a_while_cost_no_row() {
    let host = sim_host("host")
        .behaving(Behaviour::answer(500, "broken"))
        .start();
    let scene = Scene::new(&host.url());
    write_rows(&scene.folder.path().join("in"), 7);
    let recovery = async {
        eventually("the second text is asked for", async || host.arrivals() > 9).await;
        host.set(Behaviour::Serve);
    };
    let ((code, told), ()) = tokio::join!(scene.run(&["--keep-going"]), recovery);
    assert_eq!(code, Some(0), "{told}");
    let written = scene.written();
    let vectors = written.iter().filter(|row| row["embedding"].is_array());
    assert_eq!(vectors.count(), 7, "{written:?}");
}

/// A proxy that wants TLS says so with 400, for instance.
#[tokio::test]
async fn what_is_said_of_all_texts_alike_is_no_fault_of_theirs() {
    let host = sim_host("host")
        .behaving(Behaviour::answer(400, "this address speaks TLS"))
        .start();
    let scene = Scene::new(&host.url());
    let (code, told) = scene.run(&["--keep-going"]).await;
    assert_eq!((code, scene.output().as_str()), (Some(1), ""));
    assert!(
        told.contains("all texts are refused alike: 400: this address"),
        "{told}"
    );
    host.set(Behaviour::Serve);
    assert_eq!(scene.run(&["--keep-going"]).await.0, Some(0));
    scene.assert_whole();
}
