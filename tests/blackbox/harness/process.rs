//! A child process that is killed with its test, and whose log is shown if the test fails.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::eventually;

/// Generous: only a failing test waits that long for a child.
const PATIENCE: Duration = Duration::from_mins(1);

/// See the module.
pub(crate) struct Process {
    name: String,
    child: Child,
    /// `None`: nobody reads it any more.
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    log: Arc<Mutex<String>>,
    log_ends: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`; `name` is for messages.
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        Self::start_logging_to(name, command, Stdio::piped())
    }

    /// The same with another standard error; it is read here only if it is a pipe of our own.
    pub(crate) fn start_logging_to(name: &str, command: &mut Command, stderr: Stdio) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().map(BufReader::new);
        let log_ends = stderr.map(|stderr| tokio::spawn(collect(stderr, Arc::clone(&log))));
        Self {
            name: name.to_owned(),
            child,
            stdout: Some(stdout),
            log,
            log_ends,
        }
    }

    /// Runs `command` to its end: exit code, standard output, standard error.
    pub(crate) async fn run(command: &mut Command) -> (Option<i32>, String, String) {
        let output = timeout(PATIENCE, command.stdin(Stdio::null()).output());
        let output = output.await.expect("the command never ends").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// The next line on standard output; `None` after the last.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let stdout = self.stdout.as_mut().expect("standard output");
        let line = timeout(PATIENCE, stdout.next_line()).await;
        line.unwrap_or_else(|_| panic!("{} says nothing", self.name))
            .unwrap()
    }

    /// The next line, which must start with `prefix`; returns the rest.
    pub(crate) async fn announced(&mut self, prefix: &str) -> String {
        let line = self.line().await.unwrap_or_default();
        line.strip_prefix(prefix)
            .unwrap_or_else(|| panic!("{} says {line:?}, not {prefix:?}", self.name))
            .to_owned()
    }

    /// Closes the pipe that is its standard output, and that of its children.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Its number in the system.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("still running")
    }

    /// Asks it to end (SIGTERM).
    pub(crate) async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Sends it a signal.
    pub(crate) async fn signal(&self, name: &str) {
        assert!(signal(name, self.id()).await, "no signal to {}", self.name);
    }

    /// Returns once its log holds `text`.
    pub(crate) async fn logs(&self, text: &str) {
        let what = format!("{text:?} in the log of {}", self.name);
        eventually(&what, async || self.log().contains(text)).await;
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{} does not end", self.name));
        if let Some(log_ends) = self.log_ends.take() {
            log_ends.await.unwrap();
        }
        status.unwrap()
    }

    /// What it wrote on standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log());
        }
    }
}

/// `command`, allowed no more than so many open files.
pub(crate) fn with_open_files(command: &Command, limit: u32) -> Command {
    let command = command.as_std();
    let mut limited = Command::new("sh");
    let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
    limited.args(["-c", &script]).arg(command.get_program());
    limited.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    limited
}

/// Sends a signal in the one way that needs neither a crate nor unsafe code. False: nobody has `pid`.
async fn signal(name: &str, pid: u32) -> bool {
    let script = format!("kill -{name} {pid}");
    let sent = Command::new("sh").args(["-c", &script]).status();
    sent.await.unwrap().success()
}

async fn collect(lines: impl AsyncBufRead + Unpin, log: Arc<Mutex<String>>) {
    let mut lines = lines.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = log.lock().unwrap();
        log.push_str(&line);
        log.push('\n');
    }
}
