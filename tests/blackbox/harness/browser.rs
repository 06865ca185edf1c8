//! A real browser: headless Chromium, driven by chromedriver over `WebDriver`
//! (<https://www.w3.org/TR/webdriver2/>), which is plain HTTP with JSON.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Process, eventually};

/// What JSON calls an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Generous: a browser ends within a second.
const FAREWELL: Duration = Duration::from_secs(10);

/// A browser with one window.
pub(crate) struct Browser {
    http: reqwest::Client,
    driver: String,
    session: String,
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `None`, loudly, where none is installed; in CI that fails the test.
    pub(crate) async fn start() -> Option<Self> {
        if !is_installed("chromedriver").await {
            let missing = "Chromium is not installed (Debian: apt-get install chromium-driver)";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            let mut terminal = std::io::stderr();
            // Unlike what eprintln! says, seen even if the test passes.
            writeln!(terminal, "SKIPPED: {missing}").unwrap();
            return None;
        }
        let mut process =
            Process::start("chromedriver", Command::new("chromedriver").arg("--port=0"));
        let driver = loop {
            let line = process.line().await.expect("chromedriver's port");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break format!("127.0.0.1:{}", port.trim_end_matches('.'));
            }
        };
        let profile = TempDir::new().unwrap();
        let http = super::client::http();
        let wanted = json!({"capabilities": {"alwaysMatch": capabilities(&profile)}});
        let answer = ask(http.post(format!("http://{driver}/session")).json(&wanted)).await;
        let session = answer["sessionId"].as_str().expect("a session").to_owned();
        Some(Self {
            http,
            driver,
            session,
            _process: process,
            _profile: profile,
        })
    }

    /// Opens a page.
    pub(crate) async fn open(&self, url: &str) {
        self.command("url", &json!({"url": url})).await;
    }

    /// Runs the body of a function on the page; returns what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.command("execute/sync", &body).await
    }

    /// Returns once `expression` is true on the page.
    pub(crate) async fn sees(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        eventually(expression, async || self.run(&script).await == true).await;
    }

    /// Clicks like a person: what is hidden or covered can't be clicked.
    pub(crate) async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.command(&format!("element/{element}/click"), &json!({}))
            .await;
    }

    /// Types into an element; `\u{e007}` is Enter, `\u{e004}` Tab, `\u{e00c}` Escape.
    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        let body = json!({"text": text});
        self.command(&format!("element/{element}/value"), &body)
            .await;
    }

    /// A command of the `DevTools` protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.command("goog/cdp/execute", &body).await
    }

    /// The URLs of all requests since the last call, but for those for the browser's own pages.
    pub(crate) async fn requested(&self) -> Vec<String> {
        let log = self
            .command("se/log", &json!({"type": "performance"}))
            .await;
        let entries = log.as_array().unwrap().iter();
        let messages = entries.map(|entry| {
            let text = entry["message"].as_str().unwrap();
            serde_json::from_str::<Value>(text).unwrap()["message"].clone()
        });
        let sent = messages.filter(|message| message["method"] == "Network.requestWillBeSent");
        let urls = sent.map(|message| {
            let url = message["params"]["request"]["url"].as_str();
            url.unwrap().to_owned()
        });
        urls.filter(|url| !url.starts_with("chrome:")).collect()
    }

    async fn find(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.command("element", &body).await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    async fn command(&self, name: &str, body: &Value) -> Value {
        let url = format!("http://{}/session/{}/{name}", self.driver, self.session);
        ask(self.http.post(url).json(body)).await
    }
}

impl Drop for Browser {
    /// A chromedriver that is killed leaves its browser behind; one that is asked does not.
    fn drop(&mut self) {
        let goodbye = format!(
            "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.session, self.driver
        );
        let Ok(mut stream) = TcpStream::connect(&self.driver) else {
            return;
        };
        // It answers once the browser has ended, and then leaves the connection open.
        let _ = stream.set_read_timeout(Some(FAREWELL));
        if stream.write_all(goodbye.as_bytes()).is_ok() {
            let _ = stream.read(&mut [0; 1024]);
        }
    }
}

fn capabilities(profile: &TempDir) -> Value {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,1000",
        &profile,
    ];
    json!({
        "browserName": "chrome",
        "goog:chromeOptions": {"args": arguments},
        "goog:loggingPrefs": {"performance": "ALL"},
    })
}

async fn ask(request: reqwest::RequestBuilder) -> Value {
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let value = answer["value"].clone();
    assert!(
        value["error"].is_null(),
        "chromedriver: {}",
        value["message"]
    );
    value
}

async fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().await;
    found.is_ok_and(|output| output.status.success())
}
