//! The live page shows an operator what goes on, in a real browser, to nobody without the key.

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Behaviour, Browser, Config, Ending, Proxy, Reply, SimHost, StatusAnswer, embed_body,
    eventually, sim_host,
};

/// In script: the row of a host.
fn row(host: &str) -> String {
    format!("document.getElementById('host-{host}')")
}

/// In script: is `host` in this state, and does its row hold this text?
fn shows(host: &str, state: &str, text: &str) -> String {
    let row = row(host);
    format!("{row}?.dataset.state === '{state}' && {row}.innerText.includes({text:?})")
}

/// Presses the button of that label, and confirms.
async fn order(browser: &Browser, label: &str) {
    browser.click(&format!("[aria-label='{label}']")).await;
    browser
        .sees("document.getElementById('confirm').open")
        .await;
    browser.click("#confirm-yes").await;
    browser
        .sees("!document.getElementById('confirm').open")
        .await;
}

async fn three_hosts() -> ([SimHost; 3], Proxy) {
    let hosts = ["a", "b", "c"].map(|name| sim_host(name).start());
    let all = [&hosts[0], &hosts[1], &hosts[2]];
    let proxy = Proxy::ready(&Config::with_hosts(&all), &all).await;
    (hosts, proxy)
}

#[tokio::test]
async fn each_change_of_a_host_is_seen_with_its_reason() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let ([a, b, _c], proxy) = three_hosts().await;
    let origin = format!("http://{}/", proxy.admin());
    browser.open(&origin).await;
    browser.sees(&shows("c", "up", "0 of 2 in use")).await;
    browser
        .sees("document.body.innerText.includes('All 3 hosts serve.')")
        .await;

    a.set(Behaviour::busy(20));
    proxy.client().flood(6, 1).await;
    browser
        .sees(&shows("a", "busy", "it said that it is full"))
        .await;

    b.stop();
    browser
        .sees(&shows("b", "ejected", "it does not accept connections"))
        .await;
    browser
        .sees("document.getElementById('verdict').innerText.includes('does not accept')")
        .await;
    browser
        .sees("document.getElementById('announcements').textContent.includes('b is ejected')")
        .await;

    order(&browser, "Drain c").await;
    browser
        .sees(&shows("c", "drained", "drained by an operator"))
        .await;
    browser
        .sees("document.getElementById('events').innerText.includes('c is drained')")
        .await;

    b.restart();
    browser.sees(&shows("b", "up", "b")).await;
    order(&browser, "Undrain c").await;
    browser.sees(&shows("c", "up", "c")).await;

    let requested = browser.requested().await;
    assert!(requested.len() > 5, "{requested:?}");
    for url in requested {
        let own = url.starts_with(&origin) || url.starts_with("data:");
        assert!(own, "the page asked {url}");
    }
}

#[tokio::test]
async fn a_fault_that_was_hidden_from_its_client_is_told_with_its_id() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (hosts, proxy) = three_hosts().await;
    hosts[0].set(Behaviour::DieMidBody(Ending::Reset));
    browser.open(&format!("http://{}/", proxy.admin())).await;
    browser.sees(&shows("a", "up", "a")).await;

    for number in 0..3 {
        let request = proxy.client().request(Method::POST, "/embed");
        let request = request.header("X-Request-Id", format!("job-{number}"));
        let reply = Reply::to(request.json(&embed_body("text"))).await;
        reply.assert_embedding_of("text");
    }

    browser
        .sees("document.getElementById('incidents').innerText.includes('a broke off, then')")
        .await;
    browser
        .sees("document.getElementById('incidents').innerText.includes('job-')")
        .await;
}

#[tokio::test]
async fn nothing_is_shown_without_the_admin_key() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host]).set("admin", "key", "open-sesame");
    let proxy = Proxy::start(&config).await;
    browser.open(&format!("http://{}/", proxy.admin())).await;
    browser
        .sees("document.getElementById('ask-key').open")
        .await;

    browser.type_into("#key", "wrong\u{e007}").await;
    browser
        .sees("document.body.innerText.includes('That is not the key.')")
        .await;
    assert_eq!(
        browser
            .run("return document.getElementById('host-a')")
            .await,
        Value::Null
    );

    browser.type_into("#key", "open-sesame\u{e007}").await;
    browser.sees(&shows("a", "up", "a")).await;
    order(&browser, "Drain a").await;
    browser.sees(&shows("a", "drained", "drained")).await;
    let kept = "return [sessionStorage.length, localStorage.length, document.cookie]";
    assert_eq!(browser.run(kept).await, json!([1, 0, ""]));

    browser.click("#forget-key").await;
    browser
        .sees("document.getElementById('ask-key')?.open")
        .await;
    assert_eq!(browser.run("return sessionStorage.length").await, 0);
}

#[tokio::test]
async fn what_was_not_run_as_it_came_is_told() {
    let host = sim_host("a").most_items(1).tells_most().start();
    let proxy = Proxy::ready(&Config::with_hosts(&[&host]), &[&host]).await;
    host.is_checked(3).await;
    let batch = json!({"texts": ["x", "y", "z"], "model": "sim"});
    assert_eq!(proxy.client().post("/embed", &batch).await.status, 200);
    eventually("its share is known", async || {
        let (_, pool, _) = proxy.command(&["status", "--json"]).await;
        let pool: Value = serde_json::from_str(&pool).unwrap();
        pool["reshaped"] == json!({"in_parts": 1.0, "together": 0.0})
    })
    .await;
    let Some(browser) = Browser::start().await else {
        return;
    };
    let origin = format!("http://{}/", proxy.admin());
    browser.open(&origin).await;
    browser
        .sees("document.getElementById('latency').innerText.endsWith('; 100 % cut into parts')")
        .await;
}

#[tokio::test]
async fn the_page_follows_to_a_successor_and_says_when_nobody_is_there() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let place = TempDir::new().unwrap();
    let socket = place.path().join("upgrade.sock");
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host]);
    let mut old = Proxy::start_at(&socket, &config).await;
    browser.open(&format!("http://{}/", old.admin())).await;
    browser.sees(&shows("a", "up", "a")).await;

    let mut new = Proxy::start_at(&socket, &config).await;
    assert_eq!(old.ended().await.code(), Some(0), "no stream holds it back");
    let (code, ..) = new.command(&["drain", "a"]).await;
    assert_eq!(code, Some(0));
    browser.sees(&shows("a", "drained", "a")).await;
    browser
        .sees("document.getElementById('connection').innerText === 'live'")
        .await;

    new.terminate().await;
    new.ended().await;
    browser
        .sees("document.getElementById('connection').innerText === 'disconnected'")
        .await;
    browser
        .sees("document.body.innerText.includes('what you see is old')")
        .await;
}

/// What checkers of accessibility look for first; each line that comes back is a fault.
const AUDIT: &str = r"
    const faults = [];
    const fault = (what, element) => faults.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
    const all = (selector) => [...document.querySelectorAll(selector)];
    for (const button of all('button, a[href], summary'))
      if (!(button.textContent.trim() || button.ariaLabel)) fault('no name', button);
    for (const input of all('input'))
      if (input.labels.length === 0) fault('no label', input);
    for (const header of all('thead th'))
      if (header.scope !== 'col' || !header.textContent.trim()) fault('no header', header);
    for (const table of all('table'))
      if (!table.getAttribute('aria-labelledby')) fault('no name', table);
    for (const row of all('#host-rows tr'))
      if (row.querySelectorAll('th[scope=row]').length !== 1) fault('no header', row);
    for (const image of all('img'))
      if (!image.hasAttribute('alt')) fault('no alternative', image);
    for (const plot of all('svg'))
      if (plot.getAttribute('role') !== 'img' || !plot.getAttribute('aria-label')) fault('no name', plot);
    for (const element of all('[id]'))
      if (all(`[id='${CSS.escape(element.id)}']`).length !== 1) fault('not unique', element);
    for (const reference of all('[aria-labelledby]'))
      if (!document.getElementById(reference.getAttribute('aria-labelledby'))) fault('dangling', reference);
    if (!document.documentElement.lang || all('h1').length !== 1 || all('main').length !== 1)
      faults.push('no language, title or main part');
    return faults;
";

#[tokio::test]
async fn it_fits_a_phone_can_be_read_aloud_and_takes_names_as_text() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let evil = "embed:<img/src=x onerror=document.title='gotcha'>";
    let long = format!("embed:{}", "a-long-name-of-a-model/".repeat(9));
    let host = sim_host("a").models(&[evil, &long]).start();
    let config = Config::with_hosts(&[&host]).set("queue", "max_wait", "100ms");
    let name = "a-host-whose-name-is-as-long-as-may-be-and-wider-than-a-phone";
    let config = config.host(name, "http://127.0.0.1:1", None);
    let proxy = Proxy::ready(&config, &[&host]).await;
    host.set(Behaviour::busy(20));
    proxy.client().embed("refused").await.assert_come_again();
    let phone = json!({"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": true});
    browser
        .devtools("Emulation.setDeviceMetricsOverride", phone)
        .await;

    browser.open(&format!("http://{}/", proxy.admin())).await;

    browser.sees(&shows("a", "busy", "onerror")).await;
    browser
        .sees("document.getElementById('incidents').innerText.includes('no host became free in time')")
        .await;
    browser
        .sees(&format!("{}?.innerText.includes('ejected')", row(name)))
        .await;
    let width = "return document.documentElement.scrollWidth";
    assert_eq!(browser.run(width).await, 320, "it scrolls sideways");
    assert_eq!(browser.run(AUDIT).await, json!([]));
    let title = browser.run("return document.title").await;
    assert!(title.as_str().unwrap().contains("gpu-bridge"), "{title}");

    browser.click("[aria-label='Drain a']").await;
    let focused = "return document.activeElement.closest('dialog')?.id";
    assert_eq!(browser.run(focused).await, "confirm");
    browser.type_into("#confirm-no", "\u{e00c}").await;
    browser
        .sees("!document.getElementById('confirm').open")
        .await;
    let back = "return document.activeElement.getAttribute('aria-label')";
    assert_eq!(
        browser.run(back).await,
        "Drain a",
        "focus returns to the button"
    );
}

#[tokio::test]
async fn the_files_may_be_read_by_anybody_and_can_do_no_harm() {
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host]).set("admin", "key", "open-sesame");
    let proxy = Proxy::start(&config).await;
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                  img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for path in ["/", "/page/main.js", "/page/page.css", "/page/icon.svg"] {
        let reply = proxy.operator().get(path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("content-security-policy"), Some(policy));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    proxy
        .operator()
        .get("/page/../page.rs")
        .await
        .assert_error(404);
    proxy
        .operator()
        .get("/page/missing.js")
        .await
        .assert_error(404);
    proxy
        .operator()
        .get("/api/v1/events")
        .await
        .assert_error(401);
}

/// A stream of pushes.
async fn watch(proxy: &Proxy) -> reqwest::Response {
    let request = proxy.operator().request(Method::GET, "/api/v1/events");
    request.send().await.unwrap()
}

/// The next push.
async fn push(stream: &mut reqwest::Response) -> Value {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let data = text.lines().rfind(|line| line.starts_with("data:"));
    serde_json::from_str(data.unwrap().strip_prefix("data:").unwrap()).unwrap()
}

#[tokio::test]
async fn the_stream_tells_what_happens_and_its_places_are_few() {
    let (_hosts, proxy) = three_hosts().await;
    let mut stream = watch(&proxy).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["cache-control"], "no-store");
    let first = push(&mut stream).await;
    assert_eq!(first["pool"]["hosts"][0]["name"], "a");
    let up = json!("up");
    let events = first["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["kind"] == up), "{events:?}");

    let (code, ..) = proxy.command(&["drain", "b"]).await;
    assert_eq!(code, Some(0));
    eventually("the event", async || {
        let next = push(&mut stream).await;
        let events = next["events"].as_array().unwrap();
        events
            .iter()
            .any(|event| event["kind"] == "draining" && event["host"] == "b")
    })
    .await;

    let mut others = Vec::new();
    let refused = loop {
        let other = watch(&proxy).await;
        if !other.status().is_success() {
            break other;
        }
        others.push(other);
        assert!(others.len() < 100, "no bound");
    };
    assert_eq!(refused.status(), 503);
    drop(others);
    eventually("a free place", async || {
        watch(&proxy).await.status().is_success()
    })
    .await;
}

#[tokio::test]
async fn what_happens_again_and_again_is_told_once_and_ejections_stay() {
    let hosts = [
        sim_host("good").start(),
        sim_host("full").status(StatusAnswer::AllFree).start(),
        sim_host("gone").start(),
    ];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    hosts[2].stop();
    proxy.finds_unhealthy("gone").await;
    hosts[1].set(Behaviour::busy(0));

    let mut events = Value::Null;
    eventually("the host is full for the fifth time", async || {
        proxy.client().embed("x").await.assert_embedding_of("x");
        events = push(&mut watch(&proxy).await).await["events"].take();
        let all = events.as_array().unwrap();
        all.iter()
            .any(|event| event["group"] == "load" && event["count"].as_u64() >= Some(5))
    })
    .await;

    let of = |host: &str, group: &str| {
        let all = events.as_array().unwrap().iter();
        let same = all.filter(|event| event["host"] == host && event["group"] == group);
        same.cloned().collect::<Vec<_>>()
    };
    let full = of("full", "load");
    assert_eq!(full.len(), 1, "{events}");
    assert!(full[0]["first_ms"].as_u64() < full[0]["at_ms"].as_u64());
    assert_eq!(of("gone", "ejected").len(), 1, "{events}");

    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&format!("http://{}/", proxy.admin())).await;
    browser
        .sees("/full .* times since/.test(document.getElementById('events').innerText)")
        .await;
    proxy.client().flood(10, 1).await;
    let entries =
        "return document.querySelectorAll('#events [data-host=full][data-group=load]').length";
    assert_eq!(browser.run(entries).await, 1);
}

#[tokio::test]
async fn the_pool_its_hosts_and_the_past_are_told_in_full() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let host = sim_host("a").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    proxy.client().flood(8, 2).await;
    browser.open(&format!("http://{}/", proxy.admin())).await;

    browser
        .sees("/, up for \\d+ (s|min)$/.test(document.getElementById('version').textContent)")
        .await;
    browser
        .sees("document.getElementById('policy').textContent === 'Policy: round-robin'")
        .await;
    let place = format!("{} · Simulated a", host.url());
    browser.sees(&shows("a", "up", &place)).await;
    browser.sees(&shows("a", "up", "speed 1.00x")).await;
    browser
        .sees("document.querySelector('#plot-answered .axis').textContent.includes('5 min ago')")
        .await;

    browser
        .run("document.querySelector('#plot-answered svg').focus()")
        .await;
    browser.type_into("#plot-answered svg", "\u{e012}").await;
    browser
        .sees("/\\d:\\d\\d: \\d+ answered$/.test(document.querySelector('#plot-answered output').value)")
        .await;
}

#[tokio::test]
async fn a_click_on_an_id_tells_the_story_of_its_request() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (hosts, proxy) = three_hosts().await;
    hosts[0].set(Behaviour::DieMidBody(Ending::Reset));
    let id = "batch/7:a+b@c=d";
    for _ in 0..3 {
        let request = proxy.client().request(Method::POST, "/embed");
        let request = request.header("X-Request-Id", id);
        let reply = Reply::to(request.json(&embed_body("text"))).await;
        reply.assert_embedding_of("text");
    }
    browser.open(&format!("http://{}/", proxy.admin())).await;
    browser
        .sees("document.querySelector('#incidents button.id')")
        .await;
    let id = browser
        .run("return document.querySelector('#incidents button.id').textContent")
        .await;
    let id = id.as_str().unwrap();

    browser.click("#incidents button.id").await;

    let (_, told, _) = proxy.command(&["explain", id]).await;
    assert!(
        told.contains("request ") && told.contains(": fault"),
        "{told}"
    );
    let shown = "document.getElementById('story-text').textContent";
    browser
        .sees(&format!("{shown}.includes(': fault after')"))
        .await;
    let shown = browser.run(&format!("return {shown}")).await;
    assert!(
        shown
            .as_str()
            .unwrap()
            .starts_with(&format!("request {id}: POST embed"))
    );
    assert_eq!(browser.run(AUDIT).await, json!([]));
    browser.click("#story-close").await;
    browser.sees("!document.getElementById('story').open").await;
}
