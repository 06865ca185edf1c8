//! A real DNS server (dnsmasq) that knows the names of one test.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;
use tokio::process::Command;

use super::{Process, eventually};

/// See the module. Ends with the test.
pub(crate) struct DnsServer {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl DnsServer {
    /// Starts one that knows `records` (name, address), and tells a TTL of so many seconds. `None`,
    /// loudly, where dnsmasq is not installed; in CI that fails the test.
    pub(crate) async fn start(ttl: u32, records: &[(&str, &str)]) -> Option<Self> {
        Self::start_at(free_address(), ttl, records).await
    }

    /// The same at this address.
    pub(crate) async fn start_at(
        address: SocketAddr,
        ttl: u32,
        records: &[(&str, &str)],
    ) -> Option<Self> {
        let Some(program) = installed() else {
            let missing = "dnsmasq is not installed (Debian: apt-get install dnsmasq-base)";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            eprintln!("SKIPPED: {missing}");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), records);
        let mut command = dnsmasq(program, folder.path(), address, ttl);
        let server = Self {
            process: Process::start("dnsmasq", &mut command),
            address,
            folder,
        };
        server.has_read(1).await;
        Some(server)
    }

    /// For `pool.resolver`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Knows these records from now on, and no others.
    pub(crate) async fn set(&self, records: &[(&str, &str)]) {
        let before = self.times_read();
        write(self.folder.path(), records);
        self.process.signal("HUP").await;
        self.has_read(before + 1).await;
    }

    /// How often it was asked for `name`.
    pub(crate) fn asked_for(&self, name: &str) -> usize {
        let line = format!("query[A] {name} ");
        self.process.log().matches(&line).count()
    }

    /// Ends it.
    pub(crate) async fn stop(&mut self) {
        self.process.terminate().await;
        self.process.ended().await;
    }

    fn times_read(&self) -> usize {
        let path = records_file(self.folder.path());
        let line = format!("read {}", path.display());
        self.process.log().matches(&line).count()
    }

    async fn has_read(&self, times: usize) {
        eventually("dnsmasq has read its records", async || {
            self.times_read() >= times
        })
        .await;
    }
}

fn dnsmasq(program: &str, folder: &Path, address: SocketAddr, ttl: u32) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--keep-in-foreground", "--log-facility=-", "--pid-file="])
        .arg("--log-queries")
        .args(["--conf-file=/dev/null", "--no-resolv", "--no-hosts"])
        .args(["--bind-interfaces", "--local=/test/"])
        .arg(format!("--listen-address={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .arg(format!("--local-ttl={ttl}"))
        .arg(format!("--addn-hosts={}", records_file(folder).display()))
        // As root it would become a user who can't read the file.
        .arg("--user=root");
    command
}

/// Debian has it where only root looks.
fn installed() -> Option<&'static str> {
    let runs = |program: &&str| {
        let told = std::process::Command::new(program)
            .arg("--version")
            .output();
        told.is_ok()
    };
    ["dnsmasq", "/usr/sbin/dnsmasq"].into_iter().find(runs)
}

fn records_file(folder: &Path) -> PathBuf {
    folder.join("records")
}

/// In the form of `/etc/hosts`.
fn write(folder: &Path, records: &[(&str, &str)]) {
    let lines = records.iter();
    let lines: Vec<_> = lines
        .map(|(name, address)| format!("{address} {name}\n"))
        .collect();
    std::fs::write(records_file(folder), lines.concat()).unwrap();
}

/// A loopback address of its own: dnsmasq can't choose a free port itself, and on 127.0.0.1 others take
/// ports all the time.
fn free_address() -> SocketAddr {
    static SERVERS: AtomicU8 = AtomicU8::new(1);
    let [process, ..] = std::process::id().to_le_bytes();
    let server = SERVERS.fetch_add(1, Ordering::Relaxed);
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 53, process, server), 0)).unwrap();
    socket.local_addr().unwrap()
}
